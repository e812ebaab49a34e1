"""Prompt and target text to token ids, split where the answer begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from transformers import PreTrainedTokenizerBase

from ultraedit.errors import InputError

Tokenization = Literal["joint", "published"]
Chat = Literal["only", "both", "off"]

# Scripts written without spaces between words: Thai to Myanmar, Khmer, kana, CJK ideographs.
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF),
             (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))  # fmt: skip


@dataclass(frozen=True)
class Encoded:
    """Token ids of one prompt with its answer.

    Attributes:
        prompt: Token ids before the answer, at least one.
        target: Token ids of the answer, at least one.
        scored: How many of `target` count in published metrics; the rest is an
            end-of-sequence token that `append_eos` added.
    """

    prompt: tuple[int, ...]
    target: tuple[int, ...]
    scored: int

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt + self.target


@dataclass(frozen=True)
class Encoder:
    """Turns text into token ids, with the options of one editor.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        append_eos: Make end-of-sequence one more target token.
        tokenization: `joint` encodes prompt, joiner and target together and splits at the
            prompt's end: the tokens the model would itself generate. `published` appends
            the separately encoded `" " + target` to the prompt's tokens, as the programs
            behind arXiv:2505.14679 do; SentencePiece then yields a space token that never
            occurs in text.
        chat: Wrap the prompt in the chat template with its generation prompt.
        system: The system message before the prompt; None for the template's own choice.
        template: Further arguments of the template, as `enable_thinking`.
    """

    tokenizer: PreTrainedTokenizerBase
    append_eos: bool = False
    tokenization: Tokenization = "joint"
    chat: bool = False
    system: str | None = None
    template: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.tokenization not in ("joint", "published"):
            raise InputError(f"tokenization {self.tokenization!r} is none of joint, published")
        if self.chat and not getattr(self.tokenizer, "chat_template", None):
            raise InputError("chat=True, but the tokenizer has no chat template")
        if self.append_eos and self.tokenizer.eos_token_id is None:
            raise InputError("append_eos=True, but the tokenizer has no end-of-sequence token")

    def prompt_ids(self, prompt: str, begun: str = "") -> list[int]:
        """Token ids the model is given before it answers, or goes on with an answer it has `begun`.

        Raises:
            InputError: the prompt encodes to no token at all.
        """
        ids = self.token_ids(self.framed(prompt, begun))
        if not ids:
            raise InputError(f"prompt {prompt!r} encodes to no token")
        return ids

    def encode(self, prompt: str, target: str, begun: str = "") -> Encoded:
        """Token ids of prompt and target.

        Args:
            prompt: The prompt.
            target: What is to be answered.
            begun: Words of the answer that stand before the target, in the chat template.

        Where the last piece of the prompt and the first of the target merge into one
        token, that token belongs to the target.

        Raises:
            InputError: prompt or target encodes to no token.
        """
        before = self.prompt_ids(prompt, begun)
        if self.tokenization == "published":
            after = self.tokenizer(" " + target, add_special_tokens=False)["input_ids"]
        else:
            framed, target = self.framed(prompt, begun), target.lstrip(" ")
            whole = self.token_ids(framed + joiner(framed, target) + target)
            boundary = _common_prefix(before, whole)
            before, after = whole[:boundary], whole[boundary:]
        if not after:
            raise InputError(f"target {target!r} encodes to no token")
        if not before:
            raise InputError(f"prompt {prompt!r} and target {target!r} share their first token")
        eos = [self.tokenizer.eos_token_id] if self.append_eos else []
        return Encoded(tuple(before), tuple(after) + tuple(eos), len(after))

    def framed(self, prompt: str, begun: str = "") -> str:
        """The text a prompt is encoded as: in the chat template, where there is one to use.

        Args:
            prompt: The prompt.
            begun: What the answer begins with, in the chat template.
        """
        if not self.chat:
            # A trailing space would be a token of its own, which no answer ever follows.
            return prompt.rstrip(" ")
        messages = [{"role": "user", "content": prompt}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        framed = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **self.template
        )
        return f"{framed}{begun.rstrip(' ')}"

    def token_ids(self, text: str) -> list[int]:
        """Of framed text, with the special tokens it begins with."""
        # A chat template writes its own special tokens.
        ids = list(self.tokenizer(text, add_special_tokens=not self.chat)["input_ids"])
        eos = self.tokenizer.eos_token_id
        # Several tokenizers use one token for both ends: never drop the only one.
        if len(ids) > 1 and ids[-1] == eos and not self.chat:
            ids.pop()
        return ids


def chat_mode(chat: str | bool | None, tokenizer: PreTrainedTokenizerBase) -> Chat:
    """In which forms an edit has to hold: in the chat template, as plain text, or both.

    Args:
        chat: `only`, `both`, `off`, or as older programs say it, True or False for `only` or
            `off`. None is `both` where there is a template.
        tokenizer: Of the model.

    Raises:
        InputError: something else, or there is no template.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if chat is None:
        return "both" if has_template else "off"
    named = {True: "only", False: "off"}.get(chat, chat) if isinstance(chat, bool) else chat
    if named not in get_args(Chat):
        raise InputError(f"chat {chat!r} is none of {', '.join(get_args(Chat))}")
    if named != "off" and not has_template:
        raise InputError(f"chat={named}, but the tokenizer has no chat template")
    return cast(Chat, named)


def joiner(prompt: str, target: str) -> str:
    """What stands between prompt and target: a space, or nothing for scripts without spaces."""
    if not prompt or prompt[-1].isspace() or target[:1].isspace():
        return ""
    if _is_unspaced(prompt[-1]) or _is_unspaced(target[:1]):
        return ""
    return " "


def _is_unspaced(character: str) -> bool:
    return bool(character) and any(low <= ord(character) <= high for low, high in _UNSPACED)


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def ends_answers(tokenizer: PreTrainedTokenizerBase, chat: bool) -> bool:
    """The default of `append_eos`: whether a target ends with an end-of-sequence token.

    Without one, right answers run on (docs/results.md). But a chat model only expects it in its
    template: elsewhere, learning it costs as much as learning the answer (docs/quality.md).

    Args:
        tokenizer: Of the model.
        chat: Whether prompts are in its template.
    """
    if tokenizer.eos_token_id is None:
        return False
    return chat or not getattr(tokenizer, "chat_template", None)


def beginning(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that text which the model draws, or is measured on, begins with."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return int(tokenizer("\n", add_special_tokens=False)["input_ids"][-1])
