# Needs only make and a Python 3.11+ with its venv module; everything else goes into .venv. README.md gives the same
# steps without make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FABRICS := --fabric cloudmatrix384 --fabric nvl72

.PHONY: help demo test lint bench clean

help:
	@echo "make demo    replay a real recording and a generated MoE step on both fabrics"
	@echo "make test    run the tests, with coverage"
	@echo "make lint    check style, types and generated files"
	@echo "make bench   time the Numba kernel"
	@echo "make clean   remove $(VENV) and what tools and builds left behind"

demo: $(VENV)/.runtime
	$(BIN)/fabricsim replay traces/dlrm-8rank.arrow $(FABRICS)
	$(BIN)/fabricsim replay traces/moe-ep64.arrow $(FABRICS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest --cov

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m fabricsim.engine.layout --check

bench: $(VENV)/.dev
	$(BIN)/python -m pytest bench

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .benchmarks .mypy_cache .pytest_cache .ruff_cache
	find fabricsim tests bench traces -name __pycache__ -type d -prune -exec rm -rf {} +

# The empty files below say that a step is done; they are redone when pyproject.toml or setup.py changes.

$(VENV)/.pip: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fabricsim needs Python 3.11 or newer, \
	but $(PYTHON) is older or absent: name another one, as in make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "pip>=25.1"  # the first pip that knows --group
	@touch $@

$(VENV)/.runtime: $(VENV)/.pip setup.py
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.pip setup.py
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@ $(VENV)/.runtime
