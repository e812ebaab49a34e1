"""Text from token ids as they come: whole characters only, and only up to a stop string."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ultraedit.service.batcher import Finish
from ultraedit.service.sampling import Token

Decode = Callable[[Sequence[int]], str]

# What decoders write for bytes that are no character, or not yet.
REPLACED = "\ufffd"
# Tokens that are kept to decode the next one with; at most about twice as many are decoded at once.
WINDOW = 16
# A window that begins inside a character of four bytes reads up to three characters wrongly.
MISREAD = 3

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
# Byte-level BPE writes a byte as one printable character: as itself, or from U+0100 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + place): byte
    for place, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)
}


class Decoder:
    """Token ids to text, piece by piece; the cost of a token does not grow with the text.

    The pieces together are what `decode` gives for all ids. The exception is a tokenizer with
    byte fallback (`<0xE2>`) and a run of bytes with an error: this one takes the run's good
    characters along in `decode`, but not here, where they have been given away.

    Args:
        decode: Token ids to text.
        context: Ids in front; their text is not given. It settles whether the first token's text
            begins with a space.

    Attributes:
        length: Characters given so far.
    """

    def __init__(self, decode: Decode, context: Sequence[int] = ()) -> None:
        self.length = 0
        self._decode = decode
        self._window = _last(decode, context)
        self._shown = decode(self._window).rstrip(REPLACED)
        self._unseen = 0

    def feed(self, token: int) -> str:
        """What a token adds; its last character may wait for the tokens that complete it."""
        self._window.append(token)
        self._unseen += 1
        text = self._decode(self._window)
        if text == self._shown:
            # A special token, or one that the tokenizer does not have.
            if text:
                self._window.pop()
                self._unseen -= 1
            return ""
        if not text.startswith(self._shown):
            self._window, self._shown = self._window[-self._unseen :], ""
            text = self._decode(self._window)
        held = len(text) - len(text.rstrip(REPLACED))
        if self._unseen > WINDOW:
            # No character takes so many tokens.
            held = min(held, MISREAD)
        piece = self._show(text, len(text) - held)
        if len(self._window) > 2 * WINDOW:
            self._slide(text)
        return piece

    def finish(self) -> str:
        """What waited for further tokens."""
        text = self._decode(self._window)
        return self._show(text, len(text))

    def _show(self, text: str, end: int) -> str:
        piece = text[len(self._shown) : end]
        if piece:
            self._shown, self._unseen = text[:end], 0
            self.length += len(piece)
        return piece

    def _slide(self, text: str) -> None:
        """Leave out the window's beginning, if the rest reads the same without it."""
        waiting = len(text) - len(self._shown)
        latest = len(self._window) - WINDOW
        for start in range(latest, latest - WINDOW, -1):
            tail = self._decode(self._window[start:])
            if text.endswith(tail) and len(tail) - waiting >= MISREAD:
                del self._window[:start]
                self._shown = tail[: len(tail) - waiting]
                return


def _last(decode: Decode, ids: Sequence[int]) -> list[int]:
    """The last ids, from where they read best: not from inside a character on."""
    latest = max(len(ids) - WINDOW, 0)
    starts = range(latest, max(latest - MISREAD, 0) - 1, -1)
    return list(ids[min(starts, key=lambda start: decode(ids[start:]).count(REPLACED)) :])


class TextStream:
    """The text of an answer as its tokens come, up to the first stop string.

    Where several stop strings occur, the one that is complete first counts, so that the text
    does not depend on how it is cut into tokens.

    Args:
        decode: Token ids to text.
        stops: Strings that end the text and are not part of it.
        context: As for `Decoder`.

    Attributes:
        sent: Characters given so far.
        stopped: Whether a stop string was found; nothing comes after it.
    """

    def __init__(
        self, decode: Decode, stops: Sequence[str] = (), context: Sequence[int] = ()
    ) -> None:
        self.sent, self.stopped = 0, False
        self._decoder = Decoder(decode, context)
        self._stops = tuple(filter(None, stops))
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    @property
    def decoded(self) -> int:
        """Characters decoded so far: where the next token's text begins."""
        return self._decoder.length

    def feed(self, token: int) -> str:
        """What can be given after a further token."""
        return "" if self.stopped else self._pass(self._decoder.feed(token))

    def finish(self) -> str:
        """The rest, after the last token."""
        if self.stopped:
            return ""
        text = self._pass(self._decoder.finish())
        rest, self._held = self._held, ""
        self.sent += len(rest)
        return text + rest

    def _pass(self, new: str) -> str:
        if not new:
            return ""
        text = self._held + new
        found = [(at + len(s), at) for s in self._stops if (at := text.find(s)) >= 0]
        if found:
            self.stopped = True
            end, self._held = min(found)[1], ""
        else:
            end = len(text) - self._begun(text)
            self._held = text[end:]
        self.sent += end
        return text[:end]

    def _begun(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: Its characters.
        tokens: Those whose text begins in it, each with the place where it begins in the answer.
        finish: Why the answer ends here, if it does.
    """

    text: str
    tokens: Sequence[tuple[Token, int]] = ()
    finish: Finish | None = None

    @staticmethod
    def joined(pieces: Sequence[Piece]) -> Piece:
        """Several, one after another."""
        tokens = [token for piece in pieces for token in piece.tokens]
        return Piece("".join(piece.text for piece in pieces), tokens, pieces[-1].finish)


@dataclass(frozen=True)
class Echo:
    """A prompt that is repeated in front of its answer.

    Attributes:
        text: As the client wrote it; None if it gave token ids.
        ids: Its tokens.
        decode: Token ids to text.
        end: The token that ends an answer.
    """

    text: str | None
    ids: Sequence[int]
    decode: Decode
    end: int | None

    def piece(self, tokens: Sequence[Token]) -> Piece:
        """The prompt, with its tokens' probabilities where there are any."""
        decoder, text, offsets = Decoder(self.decode), "", []
        for token in self.ids:
            offsets.append(decoder.length)
            text += decoder.feed(token)
        if self.text is not None:
            text = self.text
        placed = zip(tokens, offsets if tokens else (), strict=True)
        return Piece(text, [(token, min(offset, len(text))) for token, offset in placed])


class Spelling:
    """What single tokens stand for.

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        # Some decoders drop the space in front of a first token.
        self._before = list(tokenizer("a", add_special_tokens=False)["input_ids"][-1:])
        self._begin = self._decode(self._before)
        self._known: dict[int, tuple[str, list[int] | None]] = {}

    def text(self, token: int) -> str:
        """Its text; `bytes:` and escapes where it is only a part of a character."""
        return self._of(token)[0]

    def bytes(self, token: int) -> list[int] | None:
        """Its bytes; None where they cannot be told."""
        return self._of(token)[1]

    def _of(self, token: int) -> tuple[str, list[int] | None]:
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def _read(self, token: int) -> tuple[str, list[int] | None]:
        both = self._decode([*self._before, token])
        text = both[len(self._begin) :] if both.startswith(self._begin) else self._decode([token])
        if REPLACED not in text:
            return text, list(text.encode())
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if byte := _BYTE_PIECE.fullmatch(piece):
            raw = bytes.fromhex(byte[1])
        elif all(character in _BYTES for character in piece):
            raw = bytes(_BYTES[character] for character in piece)
        else:
            return text, None
        try:
            return raw.decode(), list(raw)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), list(raw)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))
