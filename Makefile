# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check faults bench bench-stop lock clean
help: ## Show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo ## Install what running needs, then show the whole path, end to end
	@tidegate demo

test: $(VENV)/.dev ## Install what testing needs, then run every check and test
	@$(MAKE) --no-print-directory check
	pytest -n 3 --dist loadfile  # most of the time goes by waiting for processes, so three share two cores well

check: $(VENV)/.dev ## Lint, types, import rules, schemas, topics
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	tidegate schemas check
	tidegate topics check

faults: $(VENV)/.dev ## Kill, stop and cut off parts of a path under load, and look for a row that should not be there
	pytest tests/faults

bench: $(VENV)/.dev ## Speed, as ratios against something run beside it
	python -m tests.bench

bench-stop: $(VENV)/.dev ## How soon a stop is in force: 200 engagements under load, half an hour a broker
	python -m tests.bench stop

lock: $(VENV)/.dev ## Compile the hash-locked requirements from pyproject.toml
	sh requirements/lock.sh

clean: ## Remove the virtual environment and what runs have left
	rm -rf $(VENV) .tidegate demo-out build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Tidegate needs Python 3.11 or later; set PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "error: this Python has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamp files say which lock file the environment was installed from.
# Hashes are required, and the project itself is built without fetching anything.
$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing what the demo needs (about 300 MB; one or two minutes) ..."
	@$(BIN)/pip install --quiet --require-hashes -r requirements/demo.txt
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/desktop.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing what the tests need (about 350 MB; one or two minutes) ..."
	@$(BIN)/pip install --quiet --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install --quiet --require-hashes --no-deps -r requirements/desktop.txt
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.demo
