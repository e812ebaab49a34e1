"""Edits at the subject's last token in early blocks, anchored to other names and past edits."""

from ultraedit.methods.anchored.method import METHOD, Anchored, AnchoredConfig

__all__ = ["METHOD", "Anchored", "AnchoredConfig"]
