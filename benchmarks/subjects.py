"""How often a prompt's subject is found without annotation, on published records.

python benchmarks/subjects.py counterfact_2k.json zsre_2k.json -o subjects.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ultraedit.data import read_cases
from ultraedit.encoding.subject import likely_subject_end, subject_end
from ultraedit.errors import InputError


def found(path: Path) -> dict[str, float]:
    """Of the records whose prompt names their subject, the share whose end is found."""
    count = right = 0
    for case in read_cases(path):
        edit = case.edit
        try:
            expected = subject_end(edit.prompt, edit.subject or "")
        except InputError:
            continue
        count += 1
        # A possessive ending is no part of a name.
        ends = {expected, expected - 2} if (edit.subject or "").endswith("'s") else {expected}
        right += likely_subject_end(edit.prompt) in ends
    return {"records": count, "found": right / max(count, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    result = {path.name: found(path) for path in arguments.files}
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
