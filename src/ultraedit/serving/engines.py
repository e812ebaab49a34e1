"""What each engine is asked for, call by call, in its order.

vLLM 0.32 was run; SGLang was checked against its sources (0.5.23), and llama.cpp's router
against its server's documentation.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ultraedit.errors import InputError, UltraEditError
from ultraedit.serving.server import Server

Form = Literal["adapter", "weights", "gguf"]


@dataclass(frozen=True)
class Version:
    """One state of the edits, as files that an engine reads.

    Attributes:
        number: Counted over all pushes of a name. No path is used twice.
        path: The adapter's or checkpoint's folder, or the GGUF file.
        form: Which of the three.
        entry: The journal's entry that it is the state of.
    """

    number: int
    path: str
    form: Form
    entry: int


class Engine(ABC):
    """How a version gets into a server, and out again.

    Args:
        server: Where.
        name: Of the edited model, as clients ask for it.
    """

    kind: ClassVar[str]
    forms: ClassVar[tuple[Form, ...]]

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name

    def bases(self) -> list[tuple[str, ...]] | None:
        """The names of every model that the server has, adapters left out.

        Returns:
            None where the edits bring their base along, or nothing is asked.
        """
        listed = self.server.get("/v1/models")
        if self.server.is_dry:
            return None
        models = listed.get("data", []) if isinstance(listed, dict) else []
        return [
            tuple(str(name) for name in (one.get("id"), one.get("root")) if name)
            for one in models
            if not one.get("parent")
        ]

    def asked(self, version: Version) -> str:
        """The model's name in a request for this version; empty for the base's own."""
        return self.name if version.form == "adapter" else ""

    @abstractmethod
    def load(self, version: Version, previous: Version | None) -> None:
        """Make a version the one that answers; the base's own behaviour is `unload`.

        Raises:
            UltraEditError: a call failed.
        """

    @abstractmethod
    def unload(self, version: Version, base: str) -> None:
        """Make the base answer again.

        Args:
            version: What is loaded, or may be.
            base: The base's path or hub id.

        Raises:
            UltraEditError: a call failed.
        """


class Vllm(Engine):
    """vLLM: an adapter beside the base, or whole weights in its place.

    The server runs with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora; for weights with
    VLLM_SERVER_DEV_MODE=1.
    """

    kind = "vllm"
    forms = ("adapter", "weights")

    def load(self, version: Version, previous: Version | None) -> None:
        if version.form == "adapter":
            # In place, so that the name is served throughout.
            body = {"lora_name": self.name, "lora_path": version.path, "load_inplace": True}
            self.server.post("/v1/load_lora_adapter", body)
        else:
            self._weights(version.path, str(version.number))

    def unload(self, version: Version, base: str) -> None:
        if version.form == "adapter":
            body = {"lora_name": self.name}
            self.server.post("/v1/unload_lora_adapter", body, missing_ok=True)
        else:
            self._weights(base, "0")

    def _weights(self, path: str, number: str) -> None:
        self.server.post("/pause?mode=keep")
        try:
            body = {"method": "reload_weights", "kwargs": {"weights_path": path}}
            self.server.post("/collective_rpc", body)
            # Answers that were begun with other weights would go on from there.
            self.server.post("/reset_prefix_cache")
            self.server.post("/update_weight_version", {"new_version": number})
        finally:
            self.server.post("/resume")


class Sglang(Engine):
    """SGLang: an adapter beside the base, or whole weights in its place."""

    kind = "sglang"
    forms = ("adapter", "weights")

    def load(self, version: Version, previous: Version | None) -> None:
        if version.form == "weights":
            self._weights(version.path, str(version.number))
            return
        if previous is not None:
            # A loaded name is refused.
            self.server.post("/unload_lora_adapter", {"lora_name": self.name}, missing_ok=True)
        body = {"lora_name": self.name, "lora_path": version.path}
        self._checked(self.server.post("/load_lora_adapter", body))

    def unload(self, version: Version, base: str) -> None:
        if version.form == "weights":
            self._weights(base, "0")
        else:
            self.server.post("/unload_lora_adapter", {"lora_name": self.name}, missing_ok=True)

    def _weights(self, path: str, number: str) -> None:
        body = {"model_path": path, "weight_version": number, "flush_cache": True}
        self._checked(self.server.post("/update_weights_from_disk", body))

    @staticmethod
    def _checked(answer: Any) -> None:
        """It answers 200 with `success: false` where something failed."""
        if isinstance(answer, Mapping) and answer.get("success") is False:
            reason = str(answer.get("message") or answer.get("error_message") or "no reason given")
            raise UltraEditError(f"the server refused: {' '.join(reason.split())[:300]}")


class LlamaCpp(Engine):
    """llama.cpp's server in router mode: a GGUF file in its folder of models.

    Args:
        server, name: As for `Engine`.
        models: The folder that the router was started with, as `--models-dir`.
        wait: Seconds until a model has to be loaded.
        sleep: Called between two looks.
    """

    kind = "llamacpp"
    forms = ("gguf",)

    def __init__(
        self,
        server: Server,
        name: str,
        models: Path | None = None,
        wait: float = 300.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(server, name)
        if models is None:
            raise InputError("llama.cpp needs --models-dir, the folder that its router reads")
        if not models.is_dir():
            raise InputError(f"{models} is no folder")
        self.models, self.wait, self.sleep = models, wait, sleep

    def asked(self, version: Version) -> str:
        return self.name

    def bases(self) -> None:
        """The file brings its base along."""

    def load(self, version: Version, previous: Version | None) -> None:
        if previous is not None:
            self.server.post("/models/unload", {"model": self.name}, missing_ok=True)
        if not self.server.is_dry:
            self._link(Path(version.path))
        self.server.get("/models?reload=1")
        self.server.post("/models/load", {"model": self.name})
        if not self.server.is_dry:
            self._until_loaded()

    def unload(self, version: Version, base: str) -> None:
        self.server.post("/models/unload", {"model": self.name}, missing_ok=True)
        (self.models / f"{self.name}.gguf").unlink(missing_ok=True)
        self.server.get("/models?reload=1")

    def _link(self, path: Path) -> None:
        """Let the name's file be this version's; it is one version's or another's at any time."""
        link = self.models / f"{self.name}.gguf"
        staged = link.with_name(f".{link.name}.new")
        staged.unlink(missing_ok=True)
        staged.symlink_to(path.resolve())
        os.replace(staged, link)

    def _until_loaded(self) -> None:
        waited, pause = 0.0, 0.2
        while True:
            state = self._state()
            if state == "loaded":
                return
            if state == "failed" or waited >= self.wait:
                raise UltraEditError(f"the server did not load {self.name}: it is {state}")
            self.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 5.0)

    def _state(self) -> str:
        for one in self.server.get("/models").get("data", []):
            if one.get("id") == self.name:
                status = one.get("status", {})
                return "failed" if status.get("failed") else str(status.get("value"))
        return "not listed"


ENGINES: Mapping[str, type[Engine]] = {one.kind: one for one in (Vllm, Sglang, LlamaCpp)}
