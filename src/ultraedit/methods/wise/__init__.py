"""WISE: edits in side copies of one matrix, and a router that says when to use them."""

from ultraedit.methods.wise.method import Wise, WiseConfig

__all__ = ["METHOD", "Wise", "WiseConfig"]

METHOD = Wise
