# Needs only make and a Python 3.11+ with its venv module; everything else goes into .venv. README.md gives the same
# steps without make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FABRICS := --fabric cloudmatrix384 --fabric nvl72
CSRC := $(wildcard csrc/*)
# Once is enough: these run no compiled kernel, or each by its name, or draw figures of many seeds and sizes from records
# that are the same to the bit whoever made them.
ONCE := tests/campaigns tests/fabrics tests/oracle tests/results tests/workloads tests/test_house.py \
  tests/test_calibrate.py tests/test_fairness.py \
  $(addprefix tests/engine/,test_c_kernel.py test_digests.py test_jit.py test_warmup.py)
COPY := build/sanitized

.PHONY: help demo test test-numba test-c lint sanitize bench clean

help:
	@echo "make demo      replay a real recording and a generated MoE step on both fabrics"
	@echo "make test      run the tests, with coverage, on the Numba kernel and on the C kernel"
	@echo "make lint      check style, types and generated files"
	@echo "make sanitize  compile the C kernel without a warning, and run its tests under AddressSanitizer and UBSan"
	@echo "make bench     time kernels, threads and folding against each other (10 minutes or more)"
	@echo "make clean     remove $(VENV) and what tools and builds left behind"

demo: $(VENV)/.runtime
	$(BIN)/fabricsim replay traces/dlrm-8rank.arrow $(FABRICS)
	$(BIN)/fabricsim replay traces/moe-ep64.arrow $(FABRICS)

# Everything on the Numba kernel, then on the C kernel what runs "the" kernel. Without a C kernel there is no second part,
# unless FABRICSIM_STRICT asks for one.
test: test-numba test-c

test-numba: $(VENV)/.dev
	$(BIN)/python -m pytest --cov --kernel numba

test-c: $(VENV)/.dev
	@if $(BIN)/python -c 'import sys; from fabricsim.engine.backends import c_problem; sys.exit(c_problem())'; then \
	  set -x; $(BIN)/python -m pytest --kernel c $(ONCE:%=--ignore=%); \
	else echo "The C kernel was not tested." >&2; test -z "$$FABRICSIM_STRICT"; fi

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m fabricsim.engine.layout --check

# In a copy, so that the kernel of this checkout stays as it is. The sanitizer's library has to be loaded before Python,
# and with it the C++ library, whose exceptions it intercepts: other packages throw some. Python never frees everything
# that it allocates, so leaks are not looked for. Reports go to the file descriptor that --capture=sys leaves alone.
# Numba's kernel, the plain Python one and the largest trace would take half of the time and show nothing more of C.
sanitize: $(VENV)/.dev
	rm -rf build/strict $(COPY)
	@for compiler in gcc clang; do \
	  if command -v $$compiler >/dev/null; then \
	    echo "$$compiler -Wall -Wextra -Werror"; \
	    CC=$$compiler FABRICSIM_STRICT=1 $(BIN)/python setup.py --quiet build_ext \
	      --build-lib build/strict/$$compiler --build-temp build/strict/$$compiler || exit; \
	  else echo "$$compiler: skipped, it is not installed"; fi; \
	done
	mkdir -p $(COPY)
	cp -R csrc fabricsim tests traces LICENSE README.md pyproject.toml setup.py $(COPY)
	cd $(COPY) && CC=gcc FABRICSIM_SANITIZE=1 $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	cd $(COPY) && export ASAN_OPTIONS=detect_leaks=0 NUMBA_DISABLE_JIT=1 && \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	  $(abspath $(BIN))/python -m pytest --kernel c --capture=sys -o cache_dir=$(CURDIR)/.pytest_cache \
	  tests/engine --ignore=tests/engine/test_jit.py --ignore=tests/engine/test_warmup.py \
	  -k "not without_the_jit and not moe-ep384"

bench: $(VENV)/.dev
	mkdir -p build
	$(BIN)/python -m pytest bench --benchmark-json=build/bench.json
	$(BIN)/python -m bench.table build/bench.json

clean:
	rm -rf $(VENV) build dist fabricsim/engine/*.so *.egg-info .coverage .hypothesis .benchmarks .mypy_cache .pytest_cache .ruff_cache
	find fabricsim tests bench traces -name __pycache__ -type d -prune -exec rm -rf {} +

# The empty files below say that a step is done; they are redone when pyproject.toml, setup.py or the C kernel changes.

$(VENV)/.pip: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fabricsim needs Python 3.11 or newer, \
	but $(PYTHON) is older or absent: name another one, as in make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "pip>=25.1"  # the first pip that knows --group
	@touch $@

$(VENV)/.runtime: $(VENV)/.pip setup.py $(CSRC)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.pip setup.py $(CSRC)
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@ $(VENV)/.runtime
