"""Numbers as people read them."""

from __future__ import annotations

NOTHING = "–"


def share(value: float | None) -> str:
    """Something in [0, 1], to three places."""
    return NOTHING if value is None else f"{value:.3f}"


def seconds(value: float) -> str:
    """A time, to three digits."""
    return _three_digits(value, "s") if value >= 1 else _three_digits(1e3 * value, "ms")


def size(value: float | None) -> str:
    """Bytes, to three digits."""
    if value is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} B" if unit == "B" else _three_digits(value, unit)
        value /= 1000
    return _three_digits(value, "TB")


def perplexity(value: float | None) -> str:
    """Of a model that may have been driven out of range."""
    if value is None:
        return "not finite"
    return f"{value:.2f}" if value < 1e4 else f"{value:.2e}"


def _three_digits(value: float, unit: str) -> str:
    places = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{places}f} {unit}"
