"""The most memory that a part of a process's life took."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Memory:
    """Bytes held in the memory of a device.

    On a GPU they are what torch's allocator has given out, on a CPU what is resident of this
    process. Where the system cannot count a peak anew (anything but Linux), it is the peak of
    the process's whole life.

    Args:
        device: Where the model lies.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def held(self) -> int | None:
        """Bytes held now; None where the system does not say."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return _status("VmRSS")

    def watch(self) -> None:
        """Count the peak from now on."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with suppress(OSError):
            _CLEAR.write_text("5")

    def peak(self) -> int | None:
        """The most bytes held since `watch`."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        found = _status("VmHWM")
        if found is not None:
            return found
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(values[0]) * 1024 if values else None
