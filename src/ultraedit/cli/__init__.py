"""The command line: one module per command, one core under them all."""

from __future__ import annotations

import logging
import os
import sys

# transformers imports some of these wherever they are installed, and they remark on the
# processor, on each other and, at every pass, on themselves.
TALKATIVE = ("accelerate", "bitsandbytes", "torch.utils._pytree", "torchao")


class _Notes(logging.Handler):
    """Prints what the package reports to standard error, wherever that is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)


def main() -> None:
    """Run the command line and exit: 0 done, 1 outside limits or failed, 2 bad input."""
    # Products in half precision keep code for every size of batch, up to 1,024 sizes and some
    # gigabytes; read when the first of them is made.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    # Large tensors on large pages, where Linux has them: half the time of a fresh one.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    own = logging.getLogger("ultraedit")
    own.setLevel(logging.INFO)
    own.handlers = [_Notes()]
    from ultraedit.cli.app import build_app
    from ultraedit.errors import UltraEditError

    try:
        build_app()()
    except UltraEditError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody left to tell.
        sys.stderr.close()
        sys.exit(1)
