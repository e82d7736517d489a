# Corten's targets.  "make help" lists them.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.run
DEV_STAMP := $(VENV)/.dev
SOURCES := pyproject.toml $(shell find src -name '*.py' -o -name '*.json' -o -name 'init-*' 2>/dev/null)
WORKERS ?= 2
VM_TESTS ?= wide

.PHONY: help run test test-unit test-engine test-clients test-faults test-vm check bench images clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tools/install-packages venv
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade .
	@touch $@

$(DEV_STAMP): $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade '.[dev]'
	@touch $@ $(RUN_STAMP)

run: $(RUN_STAMP) ## set everything up and run a first container
	@tools/first-container $(BIN)/corten

test: $(DEV_STAMP) ## set everything up and run all tests
	tools/install-packages test
	tests/images/build-images nginx
	tests/clients/fetch-clients || echo "the newest clients cannot be fetched: tests with them are skipped" >&2
	$(BIN)/pytest -q -n $(WORKERS) $(PYTEST_ARGS) tests/unit
	@# what looks at the machine's mounts and cgroups runs alone
	$(BIN)/pytest -q $(PYTEST_ARGS) tests/engine tests/clients tests/faults

test-unit: $(DEV_STAMP) ## tests that need no root
	$(BIN)/pytest -n $(WORKERS) $(PYTEST_ARGS) tests/unit

test-engine: $(DEV_STAMP) ## tests against the real kernel, as root
	tools/install-packages test
	$(BIN)/pytest $(PYTEST_ARGS) tests/engine

test-clients: $(DEV_STAMP) ## unmodified clients against a real daemon
	tools/install-packages test
	tests/images/build-images nginx
	tests/clients/fetch-clients || echo "the newest clients cannot be fetched: tests with them are skipped" >&2
	$(BIN)/pytest $(PYTEST_ARGS) tests/clients

test-faults: $(DEV_STAMP) ## crashes, full disks, hostile input
	tools/install-packages test
	$(BIN)/pytest $(PYTEST_ARGS) tests/faults

test-vm: $(DEV_STAMP) ## on a machine with cgroup v2 only, in QEMU (VM_TESTS=small|wide|paths)
	tools/install-packages vm
	CORTEN_VM_TESTS="$(VM_TESTS)" $(BIN)/pytest $(PYTEST_ARGS) tests/vm

check: $(DEV_STAMP) ## lint, format, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/unit/test_layers.py

bench: $(DEV_STAMP) ## the figures of the README, beside dockerd in the same run
	tools/install-packages bench
	$(BIN)/python bench/run $(BENCH_ARGS)
	$(BIN)/python bench/api.py
	$(BIN)/python bench/networks
	$(BIN)/python bench/registry
	$(BIN)/python bench/rootless
	$(BIN)/python bench/oci

images: $(RUN_STAMP) ## busybox, debian and nginx images from Debian packages, in .cache/
	tools/install-packages images
	tests/images/build-images

clean: ## remove what the targets made
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache build dist
