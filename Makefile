# Two commands on a fresh machine: `make quickstart` and `make test`. Both make .venv on their first run.
PYTHON ?= python3
VENV ?= .venv
OLDEST := .venv-oldest
BIN := $(VENV)/bin
RUN := runs/quickstart

.PHONY: quickstart test test-all test-oldest lint docs docs-run docs-links notebooks dist clean

define QUICKSTART
	$(1)/anomaly-suite fit --config sample_configs/quickstart.yaml --trainer.default_root_dir $(2)
	$(1)/anomaly-suite test --run $(2)
	$(1)/anomaly-suite predict --run $(2)
	$(1)/anomaly-suite report $(2)
endef

quickstart: $(VENV)/.ready
	$(call QUICKSTART,$(BIN),$(RUN))

test: $(VENV)/.ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not matrix" --cov --cov-report=term:skip-covered --cov-fail-under=90

# The lowest versions that pyproject.toml allows: the commands of the quickstart, then tests of every layer, over a few methods.
OLDEST_TESTS := $(addprefix tests/,metrics data nn io contract cli test_losses.py test_options.py test_contract.py)
test-oldest: $(OLDEST)/.ready-test
	$(call QUICKSTART,$(OLDEST)/bin,runs/quickstart-oldest)
	OMP_NUM_THREADS=1 ANOMALY_SUITE_METHODS="ADACL PaDiM DeepMIL" \
		$(OLDEST)/bin/python -m pytest -n 2 --dist loadgroup -m "not slow" $(OLDEST_TESTS)

# Every method in every combination of tests/contract: before each release.
test-all: $(VENV)/.ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, strictly: a broken link between pages or a fault in a docstring is an error. External links: on a machine with a network.
docs: $(VENV)/.ready-docs
	$(BIN)/python -m sphinx -W --keep-going -q docs site

# What pages and notebooks show, run: those that `make test` leaves out.
docs-run: $(VENV)/.ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "matrix and not slow" tests/test_docs.py tests/test_notebooks.py

docs-links: $(VENV)/.ready-docs
	$(BIN)/python -m sphinx -b linkcheck -q docs site/links

# Runs the notebooks and stores what they print and draw.
notebooks: $(VENV)/.ready-docs
	$(BIN)/python .ci/notebooks.py

# Wheel and source archive, each installed in an empty environment and tried there; FULL=--full also downloads all dependencies anew.
dist: $(VENV)/.ready-dist
	$(BIN)/python .ci/dist.py $(FULL)

clean:
	rm -rf $(VENV) $(OLDEST) runs build dist site docs/generated jupyter_execute

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "anomaly_suite needs Python 3.10 or newer; give one with: make PYTHON=/path/to/python3 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.ready: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(OLDEST)/.ready-test: pyproject.toml
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct -e ".[test]"
	touch $@

$(VENV)/.ready-test: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $(VENV)/.ready $@

$(VENV)/.ready-%: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet -e ".[$*]"
	touch $@
