"""Draw what `ultraedit demo` prints, for the README; of smollm2 where it was fetched.

python benchmarks/demo_picture.py docs/demo.svg
"""

from __future__ import annotations

import io
import sys

from rich.console import Console

from ultraedit.cli.console import quiet_libraries
from ultraedit.cli.demo import perform


def main() -> None:
    quiet_libraries()
    console = Console(record=True, width=120, file=io.StringIO())
    for part in perform(edits=100, turn_size=100, device="cpu").renderables():
        console.print(part)
    console.save_svg(sys.argv[1], title="ultraedit demo")


if __name__ == "__main__":
    main()
