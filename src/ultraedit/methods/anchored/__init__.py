"""Edits anchored to what the model says by itself and to what was written before."""

from ultraedit.methods.anchored.anchors import Anchors
from ultraedit.methods.anchored.method import Anchored, AnchoredConfig

METHOD = Anchored

__all__ = ["METHOD", "Anchored", "AnchoredConfig", "Anchors"]
