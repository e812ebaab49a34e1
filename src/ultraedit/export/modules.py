"""The edited modules of a model on disk, read one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from transformers.pytorch_utils import Conv1D

from ultraedit.export.difference import Difference
from ultraedit.models.load import load_skeleton
from ultraedit.storage.layout import Layout
from ultraedit.storage.manifest import Manifest
from ultraedit.storage.shards import read_header, read_tensor

WEIGHT = ".weight"


class EditedModules:
    """Names, shapes and differences of the modules that one version has edited.

    Args:
        out: The edited model.
        manifest: Which version.
    """

    def __init__(self, out: Path, manifest: Manifest) -> None:
        self.out = out
        self.manifest = manifest
        self.names = [parameter.removesuffix(WEIGHT) for parameter in manifest.keys]

    def check(self) -> None:
        """Check the files that the differences are read from.

        Raises:
            InputError: one is missing, truncated or altered.
        """
        internal = Layout(self.out).internal
        self.manifest.check_edited(self.out)
        self.manifest.originals.check(internal)
        if self.manifest.masters is not None:
            self.manifest.masters.check(internal)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Module -> shape of its weight, as it is stored."""
        tensors = read_header(self._originals).tensors
        return {name: tensors[name + WEIGHT].shape for name in self.names}

    def difference(self, name: str) -> Difference:
        """What the edits have changed about a module's weight."""
        parameter = name + WEIGHT
        # A master that is, bit for bit, the served weight is not stored a second time.
        path = Layout(self.out).edited(self.manifest.edited)
        key = self.manifest.keys[parameter]
        if self.manifest.masters is not None:
            masters = Layout(self.out).internal / self.manifest.masters.name
            if parameter in read_header(masters).tensors:
                path, key = masters, parameter
        return Difference(
            read_tensor(path, read_header(path), key).float(),
            read_tensor(self._originals, read_header(self._originals), parameter),
            not self._conv1d[name],
        )

    def any_conv1d(self) -> bool:
        """Whether a weight is stored as (d, e)."""
        return any(self._conv1d.values())

    @property
    def _originals(self) -> Path:
        return Layout(self.out).internal / self.manifest.originals.name

    @cached_property
    def _conv1d(self) -> Mapping[str, bool]:
        # A square weight does not show how it is stored; the model's class does.
        skeleton = load_skeleton(self.out)
        return {name: isinstance(skeleton.get_submodule(name), Conv1D) for name in self.names}
