# The project's commands. `make quickstart` and `make test` need only python3.11, git and make: each makes .venv first.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

# Words of your own for the command that a target runs, as in `make test ARGS="-k packing"`.
ARGS ?=
# pytest workers. Each compiles and holds its own functions, so more than there are cores only costs memory.
JOBS ?= 2

PY := .venv/bin/python
VENV_STAMP := .venv/.installed-from-lock
PARITY_PY := .venv-parity/bin/python
PARITY_STAMP := .venv-parity/.installed-from-lock
PARITY_REFS := .parity/refs
TUNIX_PY := .venv-tunix/bin/python
TUNIX_STAMP := .venv-tunix/.installed-from-lock

.PHONY: help
help:  ## list the targets
	@awk -F':.*##' '/^[a-z-]+:.*##/ {printf "  make %-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

##—— Environments

# $(call new_venv,DIR): an environment in DIR, made anew if there is none or its Python has gone.
define new_venv
	@set -e; if ! $(1)/bin/python -c 'import pip' 2>/dev/null; then \
	  python=; for name in python3.11 python3; do \
	    if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; done; \
	  if [ -z "$$python" ]; then echo "itune needs Python 3.11 or newer as python3.11 or python3, and found neither." >&2; exit 2; fi; \
	  if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "$$python cannot make virtual environments; on Debian: apt-get install $$($$python -c 'import sys; print("python%d.%d" % sys.version_info[:2])')-venv" >&2; exit 2; fi; \
	  $$python -m venv --clear $(1); fi
endef

.PHONY: venv
venv: $(VENV_STAMP)  ## make .venv from requirements.lock (3.4 GB; a minute or two, then kept)

# setup.py too: the editable install carries its version. Nothing is fetched when what the lock asks for is there.
$(VENV_STAMP): requirements.lock setup.py
	@echo "Setting up .venv from requirements.lock (3.4 GB; a minute or two) ..."
	$(call new_venv,.venv)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation -e .
	@touch $@

$(PARITY_STAMP): requirements-parity.lock
	@echo "Setting up .venv-parity from requirements-parity.lock (torch: gigabytes) ..."
	$(call new_venv,.venv-parity)
	@$(PARITY_PY) -m pip install --quiet --disable-pip-version-check -r requirements-parity.lock
	@touch $@

.PHONY: venv-parity
venv-parity: $(PARITY_STAMP)  ## make .venv-parity: torch, transformers, peft, to compare with

$(TUNIX_STAMP): requirements-tunix.lock
	@echo "Setting up .venv-tunix from requirements-tunix.lock (a minute or two) ..."
	$(call new_venv,.venv-tunix)
	@$(TUNIX_PY) -m pip install --quiet --disable-pip-version-check -r requirements-tunix.lock
	@touch $@

.PHONY: venv-tunix
venv-tunix: $(TUNIX_STAMP)  ## make .venv-tunix: google-tunix, to compare with

LIBTPU := 0.0.42.1
.PHONY: libtpu
libtpu: $(VENV_STAMP)  ## fetch the TPU's compiler into .libtpu, for itune.preflight --topology; no TPU is needed
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .libtpu libtpu==$(LIBTPU)

.PHONY: lock
lock:  ## resolve requirements.in into requirements.lock again, keeping the pins that still fit
	$(call new_venv,.venv-lock)
	@.venv-lock/bin/python -m pip install --quiet pip-tools
	@.venv-lock/bin/pip-compile --quiet --strip-extras --allow-unsafe --generate-hashes --no-header --no-emit-options \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements.lock requirements.in
	@rm -rf .venv-lock

.PHONY: lock-parity
lock-parity:  ## the same for requirements-parity.lock
	$(call new_venv,.venv-lock)
	@.venv-lock/bin/python -m pip install --quiet pip-tools
	@.venv-lock/bin/pip-compile --quiet --strip-extras --allow-unsafe --no-header --no-emit-options \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements-parity.lock requirements-parity.in
	@sed -i 's/^\(torch==[0-9.]*\)+.*/\1/' requirements-parity.lock  # any build of that torch
	@rm -rf .venv-lock

.PHONY: lock-tunix
lock-tunix:  ## the same for requirements-tunix.lock
	$(call new_venv,.venv-lock)
	@.venv-lock/bin/python -m pip install --quiet pip-tools
	@.venv-lock/bin/pip-compile --quiet --strip-extras --allow-unsafe --no-header --no-emit-options \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements-tunix.lock requirements-tunix.in
	@rm -rf .venv-lock

##—— Use

.PHONY: quickstart
quickstart: $(VENV_STAMP)  ## tune the default model on the built-in mixture and report on it
	@$(PY) -m itune.train --gin_file=gin_configs/recipes/quickstart.gin $(ARGS)

.PHONY: real-data
real-data: $(VENV_STAMP)  ## the same on real data: ITUNE_DATA_DIR=path/to/data make real-data
	@if [ -z "$$ITUNE_DATA_DIR" ]; then \
	  echo "Say where the data is: ITUNE_DATA_DIR=path/to/data make real-data" >&2; exit 2; fi
	@$(PY) -m itune.train --gin_file=gin_configs/recipes/real_data.gin $(ARGS)

##—— Tests and checks

# loadfile: the tests of a file share fixtures and compiled functions, so a file stays with one worker.
PYTEST := $(PY) -m pytest -n $(JOBS) --dist loadfile

.PHONY: test
test: $(VENV_STAMP)  ## the tests, but for those marked slow
	@$(PYTEST) -m "not slow" $(ARGS)

.PHONY: test-all
test-all: $(VENV_STAMP)  ## all tests
	@$(PYTEST) $(ARGS)

.PHONY: parity
parity: $(VENV_STAMP) $(PARITY_STAMP)  ## compare with transformers and peft on the real weights
	@$(PARITY_PY) tests/parity/make_golden.py --out $(PARITY_REFS)
	@$(PARITY_PY) tests/parity/gemma.py --out $(PARITY_REFS)
	@$(PY) tests/parity/write_exports.py --refs $(PARITY_REFS)
	@$(PY) tests/parity/run_parity.py --refs $(PARITY_REFS)
	@$(PARITY_PY) tests/parity/check_exports.py --refs $(PARITY_REFS)

.PHONY: lint
lint: $(VENV_STAMP)  ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy itune tasks

.PHONY: format
format: $(VENV_STAMP)  ## let ruff mend and lay out the code
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

.PHONY: bench
bench: $(VENV_STAMP) $(PARITY_STAMP) $(TUNIX_STAMP)  ## all benchmarks in small; ARGS="--only trainers --full" for more
	@$(PY) benchmarks/run_all.py $(ARGS)

.PHONY: clean
clean:  ## remove the environments and all caches in this folder (not runs/, not the model cache)
	@rm -rf .venv .venv-parity .venv-tunix .venv-lock .parity build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .compiled
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
