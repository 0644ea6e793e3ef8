# Two commands on a fresh machine: `make quickstart` and `make test`. Both make .venv on their first run.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/quickstart

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.ready
	$(BIN)/anomaly-suite fit --config sample_configs/quickstart.yaml
	$(BIN)/anomaly-suite test --run $(RUN)
	$(BIN)/anomaly-suite predict --run $(RUN)
	$(BIN)/anomaly-suite report $(RUN)

test: $(VENV)/.ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build dist site

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "anomaly_suite needs Python 3.10 or newer; give one with: make PYTHON=/path/to/python3 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.ready: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.ready-test: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $(VENV)/.ready $@
