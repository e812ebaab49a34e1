"""The most memory that a part of a process's life took."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil
import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Memory:
    """Bytes held in the memory of a device.

    On a GPU they are what torch's allocator has given out, on a CPU what is resident of this
    process. A peak can be counted anew on Linux only; elsewhere it is that of the process's whole
    life (Windows), or what is held when it is asked for.

    Args:
        device: Where the model lies.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def held(self) -> int:
        """Bytes held now."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return int(psutil.Process().memory_info().rss)

    def watch(self) -> None:
        """Count the peak from now on."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with suppress(OSError):
            _CLEAR.write_text("5")

    def peak(self) -> int:
        """The most bytes held since `watch`."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            lines = _STATUS.read_text().splitlines()
        except OSError:
            info = psutil.Process().memory_info()
            return int(getattr(info, "peak_wset", info.rss))
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
