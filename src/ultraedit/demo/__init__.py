"""What the demo needs: corrections for a real model, and an embedded model with edits of its own.

The embedded model is a small Llama that knows real facts; `training/demo` in the repository makes
it, and the files that belong to it.
"""

from __future__ import annotations

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
CASES_FILE = Path(__file__).parent / "cases.jsonl"
FACTS_FILE = Path(__file__).parent / "facts.tsv"
CORRECTIONS_FILE = Path(__file__).parent / "corrections.jsonl"
