"""The editor of a run: over the base as it was loaded, or where the run was interrupted."""

from __future__ import annotations

import gc
from itertools import islice

import torch

from ultraedit import Editor
from ultraedit.comparison.digest import CasesDigest
from ultraedit.comparison.folder import RunFolder
from ultraedit.comparison.memory import Memory
from ultraedit.comparison.plan import Plan, Run
from ultraedit.comparison.turns import TurnLog
from ultraedit.data import read_cases
from ultraedit.encoding.tokenise import beginning
from ultraedit.errors import InputError
from ultraedit.history.run import Progress, resumed, runs_of
from ultraedit.models.load import checkpoint_dtype, kept_name, load, local_folder
from ultraedit.storage import is_edited_model
from ultraedit.storage.atomic import discard, named_failures


def begin(plan: Plan, run: Run, folder: RunFolder, log: TurnLog) -> tuple[Editor, int | None]:
    """The editor, and the bytes of memory held once the unedited model was loaded.

    Turns of the log that the saved model does not hold are dropped; where the log lacks some
    that it does, both are, and the run begins anew.

    Raises:
        InputError: the model cannot be loaded, or not be edited by this method.
        UltraEditError: what was left of an interrupted run cannot be removed.
    """
    options = plan.options
    if is_edited_model(folder.model):
        editor = Editor.load(
            folder.model, options={"history": "none"}, dtype=options.dtype, device=options.device
        )
        if log.rewind(editor.edits):
            return editor, log.turns[0].loaded_bytes
        del editor
    with named_failures(folder.path):
        discard(folder.model)
        # What was measured for turns that do not count would make the first one seem quick.
        discard(folder.cache)
    log.rewind(0)
    model, tokenizer = load(plan.model, dtype=options.dtype, device=options.device)
    with torch.no_grad():
        # Weights that are mapped from a file are not in memory before they are read.
        model(input_ids=torch.tensor([[beginning(tokenizer)]], device=model.device))
    gc.collect()
    loaded = Memory(model.device).held()
    settings = {"batch_tokens": options.batch_tokens, **run.settings}
    editor = Editor(
        model, tokenizer, method=run.method, append_eos=options.append_eos, chat=options.chat,
        history="none", stored=checkpoint_dtype(plan.model) if options.dtype == "auto" else None,
        **settings,
    )  # fmt: skip
    editor.source = (source := local_folder(plan.model)) and source.resolve()
    editor.base_name = kept_name(plan.model)
    return editor, loaded


def progress_of(editor: Editor, plan: Plan, run: Run, folder: RunFolder) -> Progress:
    """How far the run has read the file, once every edit of it was found to be possible.

    Raises:
        InputError: one is not, or the file is no longer what the comparison was begun with.
    """
    digest = CasesDigest()
    for number, case in enumerate(read_cases(plan.file, limit=plan.limit), 1):
        digest.add(case)
        editor.check(case.edit, number)
    if digest.value != plan.digest:
        raise InputError(f"{plan.file} has changed since the comparison was begun")
    progress = Progress(plan.file, plan.turn_size_of(run), plan.edits, lookahead=0)
    if editor.edits:
        edits = (case.edit for case in islice(read_cases(plan.file), editor.edits))
        progress = resumed(runs_of(editor, folder.model), progress, edits)
    return progress.resolved()
