# One door: make setup | demo | test | check | slow | coverage | docs | bench | matrix | dist
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python tools/install.py

.PHONY: setup demo test check slow coverage docs bench reproduce-cards format matrix dist clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train on embedded digits, sample, measure, write the report (minutes on two cores)"
	@echo "make test    the tests          make check   lint, format, types, layers"
	@echo "make setup   everything a developer needs in $(VENV)"
	@echo "make slow    the long tests     make docs    check the documentation     make bench   benchmarks"
	@echo "make matrix  the wheel in fresh environments of every Python (downloads gigabytes)"
	@echo "make coverage  which lines and branches the tests enter"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "undiffuse needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# Stamps: reinstall only when what is installed changes.
$(VENV)/.core: pyproject.toml constraints.txt tools/install.py | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(INSTALL) -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torch-fidelity==0.4.0  # its network works without torchvision
	@touch $@

$(VENV)/.release: $(VENV)/.dev
	$(INSTALL) -e '.[dev,release]'
	@touch $@

setup: $(VENV)/.dev

demo: $(VENV)/.core
	$(BIN)/undiffuse demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2

slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# Rooms whose branches the fast tests must enter, 95 in 100; their figures, and the lines that are never entered.
COVERED := diffusion train data
coverage: $(VENV)/.dev
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -m "not slow" -n 2
	$(BIN)/coverage combine --quiet
	@for room in $(COVERED); do echo; $(BIN)/coverage report --include "*/undiffuse/$$room/*" || exit; done
	@for room in $(COVERED); do printf '%s: ' $$room; \
	  $(BIN)/coverage report --include "*/undiffuse/$$room/*" --format total --fail-under 95 || failed=1; done; [ -z "$$failed" ]

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	$(BIN)/python -m pytest tests/test_docs.py

# The peers live in an environment of their own.
BENCH := $(VENV)-bench
$(BENCH)/.peers: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python tools/install.py -e . -r benchmarks/requirements.txt
	$(BENCH)/bin/pip install --quiet --disable-pip-version-check --no-deps denoising-diffusion-pytorch==2.3.4 ema-pytorch==0.8.3
	@touch $@

bench: $(BENCH)/.peers
	$(BENCH)/bin/python benchmarks/overhead.py
	$(BENCH)/bin/python benchmarks/unet.py

# The figures in the bundled models' cards; Fashion-MNIST must be installed, and the emojis' .tgz lie here (docs/data.md).
reproduce-cards: $(VENV)/.dev
	$(BIN)/python benchmarks/cards.py

# The wheel in fresh environments of every Python, with the lowest and with the newest versions. Downloads gigabytes.
matrix: $(VENV)/.release
	$(BIN)/python tools/matrix.py

# Builds dist/ and checks it; `python tools/release.py` also tags (CONTRIBUTING.md).
dist: $(VENV)/.release
	$(BIN)/python tools/release.py --check

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
