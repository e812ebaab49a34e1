"""What a comparison's times and memory were measured on."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
import transformers

_PROCESSORS = Path("/proc/cpuinfo")


def machine(device: torch.device) -> dict[str, Any]:
    """The device by name, its kind, torch's threads, and versions."""
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def processor() -> str:
    """The processor's model, as far as the system names it."""
    try:
        lines = _PROCESSORS.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
