"""Weights that accelerate keeps off the device, fetched once for many passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


def is_streamed(block: nn.Module) -> bool:
    """Whether a pass through `block` would fetch weights from the disk or from CPU memory.

    Not inside `resident(block)`, where they are on their device.
    """
    return next(_offloading(block), None) is not None


@contextmanager
def resident(block: nn.Module) -> Iterator[None]:
    """Inside, every offloaded weight under `block` is on its execution device.

    Each is fetched once, on the way in; passes neither fetch nor drop it. On the way out, also
    of an exception, all are dropped again. Nothing happens to a block that is not offloaded,
    or that is resident already.

    Raises:
        OSError: a file with weights is gone; nothing stays on the device.
    """
    with ExitStack() as stack:
        for module, hook in list(_offloading(block)):
            # First, so that of a module with several weights none stays if one is not found.
            stack.callback(_drop, module, hook)
            hook.pre_forward(module)
            hook.offload = False
        yield


def _drop(module: nn.Module, hook: Any) -> None:
    hook.offload = True
    hook.post_forward(module, None)


def _offloading(block: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """Modules under `block` whose hook fetches weights before a pass and drops them after it."""
    for module in block.modules():
        hook = getattr(module, "_hf_hook", None)
        if hook is None:
            continue
        # Only accelerate leaves such hooks, so it is there.
        from accelerate.hooks import AlignDevicesHook, SequentialHook

        hooks = hook.hooks if isinstance(hook, SequentialHook) else (hook,)
        for one in hooks:
            if isinstance(one, AlignDevicesHook) and one.offload:
                yield module, one
