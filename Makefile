# Two commands do everything: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A file stays on one core, for its tests share what is dear to make; whole searches come first, being the longest.
TESTS := $(BIN)/python -m pytest -n $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder
DEMO_RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo test test-slow test-hosts test-pairs test-all lint clean

demo: $(STAMP)
	$(BIN)/kdnas search --out $(DEMO_RUN)

test: $(STAMP) lint
	$(TESTS)

test-slow: $(STAMP)
	$(TESTS) -m slow

test-hosts: $(STAMP)
	$(TESTS) -m hosts

test-pairs: $(STAMP)
	$(TESTS) --dist load -m pairs

test-all: test test-slow test-hosts test-pairs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first: a later unpinned dependency must not bring another build of it.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
