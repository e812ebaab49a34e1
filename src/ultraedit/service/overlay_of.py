"""The overlay of an edited model, from its folder or from the editor in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from ultraedit.editor import Editor
from ultraedit.export.difference import Difference
from ultraedit.export.history import Factors, stacked
from ultraedit.export.lora import decompose, sufficient_rank
from ultraedit.export.modules import EditedModules
from ultraedit.export.source import at_one_version
from ultraedit.history.contributions import contributions
from ultraedit.linalg.shift import LowRank, Shift
from ultraedit.service.overlay import NOTHING, Overlay
from ultraedit.storage import is_edited_model
from ultraedit.storage.manifest import Manifest

# What an overlay may miss of the weights' change, relative to it.
TOLERANCE = 1e-3


def of_folder(out: Path) -> Overlay:
    """Of what was saved to a folder; of nothing where none was.

    Raises:
        InputError: the folder is damaged.
    """

    def read(manifest: Manifest) -> Overlay:
        modules = EditedModules(out, manifest)
        modules.check()
        limits = {name: min(shape) for name, shape in modules.shapes().items()}
        differences = {name: modules.difference(name) for name in modules.names}
        return _fitted(differences, stacked(contributions(out), limits))

    return at_one_version(out, read) if is_edited_model(out) else NOTHING


def of_editor(editor: Editor, out: Path) -> Overlay:
    """Of an editor's weights, which are those of the folder."""
    differences, limits = _differences(editor)
    return _fitted(differences, stacked(contributions(out), limits))


def after_turn(before: Overlay, shifts: Iterable[Mapping[str, Shift]], editor: Editor) -> Overlay:
    """Of an editor's weights, where `before` was theirs and `shifts` were added since.

    Its cost does not grow with the number of turns.
    """
    differences, limits = _differences(editor)
    held = {
        name: LowRank(first.T.cpu(), second.cpu(), torch.zeros(len(second), dtype=torch.int64))
        for name, (first, second) in before.factors.items()
    }
    return _fitted(differences, stacked([held, *shifts], limits))


def _differences(editor: Editor) -> tuple[dict[str, Difference], dict[str, int]]:
    found = {
        name: Difference(master.master.cpu(), master.original, master.transposed)
        for name, master in editor.workbench.masters.items()
    }
    return found, {name: min(one.master.shape) for name, one in found.items()}


def _fitted(differences: Mapping[str, Difference], factors: Mapping[str, Factors]) -> Overlay:
    """As few parts of every module as the tolerance allows; none where nothing was changed."""
    found = {}
    for name, difference in differences.items():
        whole = decompose(difference, factors.get(name), None)
        if len(whole):
            parts = whole.first(sufficient_rank(difference, whole, TOLERANCE))
            if len(parts):
                found[name] = (parts.inputs.T.contiguous(), parts.outputs.contiguous())
    return Overlay(found)
