"""What a method was trained to: one safetensors file that says what it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.storage.atomic import write_file
from ultraedit.storage.bits import digest_of

KEY = "ultraedit_trained"


@dataclass(frozen=True, eq=False)
class Trained:
    """The state of a method after its training.

    Attributes:
        method: Its name.
        settings: Its settings, as JSON has them: lists, and no tuples.
        shapes: (d, e) of the modules it was trained for, by name.
        state: Of the method, by key, on the CPU.
    """

    method: str
    settings: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, int]]
    state: Mapping[str, Tensor]

    @staticmethod
    def of(
        method: str,
        settings: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, int]],
        state: Mapping[str, Tensor],
    ) -> Trained:
        """A state of a method in memory."""
        held = {key: tensor.cpu().contiguous() for key, tensor in state.items()}
        return Trained(method, json.loads(json.dumps(settings)), dict(shapes), held)

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        return hashlib.sha256((self._about() + digest_of(self.state)).encode()).hexdigest()

    def check_fits(self, other: Trained) -> None:
        """Refuse to use it in place of another one.

        Raises:
            InputError: it is of another method, other settings or other modules.
        """
        for what in ("method", "settings", "shapes"):
            own, wanted = getattr(self, what), getattr(other, what)
            if own != wanted:
                raise InputError(f"the method was trained with {what} {own}, not {wanted}")

    def write(self, path: Path) -> None:
        """Create or replace a file in one step."""
        content = memoryview(save(dict(self.state), metadata={KEY: self._about()}))
        write_file(path, lambda sink: sink.write(content))

    @staticmethod
    def read(path: Path) -> Trained:
        """What `write` wrote.

        Raises:
            InputError: the file is missing, damaged, or something else.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})[KEY])
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            shapes = {name: (int(d), int(e)) for name, (d, e) in about["shapes"].items()}
            return Trained(about["method"], about["settings"], shapes, state)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is no file that `ultraedit train` wrote") from error

    def _about(self) -> str:
        about = {"method": self.method, "settings": self.settings, "shapes": self.shapes}
        return json.dumps(about, sort_keys=True)
