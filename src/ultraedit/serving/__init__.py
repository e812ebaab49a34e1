"""From a folder of edits to the server that answers."""

from ultraedit.serving.push import Pushed, push

__all__ = ["Pushed", "push"]
