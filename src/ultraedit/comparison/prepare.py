"""From what the caller asks for to a plan: everything is read and checked before a run begins."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ultraedit import storage
from ultraedit.comparison.case_check import CaseCheck
from ultraedit.comparison.plan import Options, Plan, Run
from ultraedit.data import read_cases
from ultraedit.data.faults import cause
from ultraedit.encoding.tokenise import Encoder, ends_answers
from ultraedit.encoding.windows import windows
from ultraedit.errors import InputError
from ultraedit.forward.generate import context_length
from ultraedit.methods.base import Method
from ultraedit.methods.registry import available, method_class
from ultraedit.methods.settings import is_count
from ultraedit.models.load import (
    load_skeleton,
    local_folder,
    resolve,
    resolve_device,
    resolve_dtype,
    runs_code,
)
from ultraedit.models.presets import choose_modules
from ultraedit.storage.checkpoint import open_checkpoint
from ultraedit.storage.fingerprint import fingerprint_of

# What may be said for one method that is no setting of its own.
BESIDE = ("modules", "batch_tokens")

Kinds = Mapping[str, type[Method]]
Settings = Mapping[str, Mapping[str, Any]]


def prepare(
    model: str,
    file: str,
    *,
    methods: Sequence[str] | None = None,
    settings: Settings | None = None,
    turn_size: int = 100,
    limit: int | None = None,
    at_once: bool = True,
    options: Options | None = None,
) -> Plan:
    """The plan of a comparison, once nothing was found that would fail in all of its runs.

    Args:
        model: Hub id, local folder, or `demo`; the unedited base.
        file: As for `data.read_cases`.
        methods: By name; by default all that need no training, and of those that need
            subjects all if every record has one.
        settings: Method -> its own settings; `modules` and `batch_tokens` beside them.
        turn_size: Edits of a turn.
        limit: Read only so many records.
        at_once: Whether methods that say `also_at_once` are shown a second time, with all
            edits in one turn.
        options: What all runs share.

    Raises:
        InputError: model, file, a record, a method or a setting will not do; it is named.
    """
    if storage.is_edited_model(resolve(model)):
        raise InputError(
            f"{model} is an edited model; a comparison begins from a plain one"
            " (`ultraedit export` makes it one)"
        )
    kinds = available() if methods is None else _named(methods)
    chosen = {method_class(name).info.name: dict(own) for name, own in (settings or {}).items()}
    skeleton = load_skeleton(model)
    built = _built(chosen, kinds, skeleton)
    tokenizer = _tokenizer(model)
    options = _checked(options or Options(), tokenizer)
    case_check = CaseCheck(file, _encoder(tokenizer, options), context_length(skeleton))
    required = [built[name] for name in built if methods is not None or name in chosen]
    for case in read_cases(file, limit=limit):
        case_check.add(case)
        case_check.check_subjects(required)
    runs = []
    for name, kind in kinds.items():
        if built[name] not in required and not case_check.allows(built[name]):
            continue
        own = chosen.get(name, {})
        runs.append(Run(name, name, own))
        if at_once and kind.info.also_at_once and turn_size < case_check.digest.count:
            runs.append(Run(f"{name}-at-once", name, own, at_once=True))
    return Plan(
        model=model,
        fingerprint=_fingerprint(model),
        file=file,
        digest=case_check.digest.value,
        edits=case_check.digest.count,
        turn_size=turn_size,
        limit=limit,
        options=options,
        runs=tuple(runs),
    )


def _named(methods: Sequence[str]) -> Kinds:
    kinds = [method_class(name) for name in methods]
    if not kinds:
        raise InputError("there are no methods to compare")
    return {kind.info.name: kind for kind in kinds}


def _built(settings: Settings, kinds: Kinds, skeleton: PreTrainedModel) -> dict[str, Method]:
    """Every method with its settings.

    Raises:
        InputError: a setting will not do, or belongs to no method that is compared.
    """
    for name in settings:
        if name not in kinds:
            raise InputError(f"there are settings for {name}, which is not compared")
    built = {}
    for name in kinds:
        given = settings.get(name, {})
        own = {key: value for key, value in given.items() if key not in BESIDE}
        built[name] = kinds[name].with_settings(own)
        if "modules" in given:
            choose_modules(skeleton, str(given["modules"]), kinds[name].modules)
        if not is_count(given.get("batch_tokens", 1)):
            raise InputError(f"batch_tokens must be at least 1, not {given['batch_tokens']!r}")
    return built


def _checked(options: Options, tokenizer: PreTrainedTokenizerBase) -> Options:
    """The options, with the digest of their text.

    Raises:
        InputError: there is no such dtype or device, or the text will not do.
    """
    resolve_dtype(options.dtype)
    # Whoever asks a GPU for anything holds some of its memory, which the runs may need.
    if not (options.device.startswith(("auto", "cuda")) and torch.cuda.is_available()):
        resolve_device(options.device)
    if options.text is None:
        return options
    for _ in windows(options.text, tokenizer, 2, 2):
        pass
    with open(options.text, "rb") as stream:
        return replace(options, text_digest=hashlib.file_digest(stream, "sha256").hexdigest())


def _encoder(tokenizer: PreTrainedTokenizerBase, options: Options) -> Encoder:
    append_eos = options.append_eos
    if append_eos is None:
        append_eos = ends_answers(tokenizer, bool(options.chat))
    return Encoder(tokenizer, append_eos, chat=options.chat)


def _tokenizer(model: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(
            resolve(model), trust_remote_code=runs_code(model, False)
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(f"{model} could not be loaded: {cause(error)}") from error


def _fingerprint(model: str) -> str | None:
    """Of weights that lie here as safetensors; of others there is none."""
    folder = local_folder(model)
    if folder is None or open_checkpoint(folder) is None:
        return None
    return fingerprint_of(folder)
