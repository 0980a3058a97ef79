# make help lists what there is to do; everything runs in .venv, which is made on first use.

PYTHON ?= python3
ARGS ?=
JOBS ?= 4
BIN := .venv/bin
AUDIT := .venv/audit
DOCS := .venv/docs
AUDITOR := pip-audit==2.10.1
READY := .venv/.ready
# Each process has a broker of its own; tests go one by one to whichever is free, but for those of an xdist_group.
# More processes than cores: most tests of whole systems wait.
PYTEST = $(BIN)/pytest -n $(JOBS) --dist loadgroup

# Where it is set, every process compiles every module anew, which takes it seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo check test faults lint audit docs docs-update clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(READY)  ## run the whole system on this machine (ARGS='--seconds 30 --plain' goes to samstream demo)
	@$(BIN)/samstream demo $(ARGS)

check: lint  ## lint, types and the quick tests that start neither a broker nor a system: what to run before each commit
	@$(PYTEST) -m 'not slow and not broker and not long' --ignore=tests/e2e --ignore=tests/stream/bench $(ARGS)

test: $(READY)  ## run the tests (ARGS='-k joiner' goes to pytest; JOBS=2 for two processes in place of four)
	@$(PYTEST) $(ARGS)

faults: $(READY)  ## kill and freeze everything under traffic, then count (ARGS='--kills 100 --json FILE')
	@$(BIN)/python -m tests.faults $(ARGS)

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(READY)  ## look the pinned packages up among known vulnerabilities
	@# An environment of its own: it brings some thirty packages that samstream has no use for.
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && \
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check $(AUDITOR); } || \
	echo "== $(AUDITOR) cannot be installed, so the dependencies were NOT audited =="
	@test ! -x $(AUDIT)/bin/pip-audit || $(AUDIT)/bin/python .ci/audit.py constraints.txt

docs: $(DOCS)/.ready  ## build the pages and the API reference into site/ (strict: no dead link)
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet $(ARGS)
	@echo "built site/index.html"

docs-update: $(READY)  ## write the generated parts of README and docs (ARGS='add FILE' takes up measurements)
	@$(BIN)/python -m docs.generator $(ARGS)

clean:  ## remove the virtual environment and caches
	rm -rf .venv site .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

# An environment of its own: the pages are built from the sources alone, without torch and Kafka.
$(DOCS)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(DOCS)
	@$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"] \
	["optional-dependencies"]["docs"], sep="\n")' > $(DOCS)/requirements.txt
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(DOCS)/requirements.txt
	@touch $@

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or \
	sys.exit("samstream needs Python 3.11, 3.12 or 3.13; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12 ..." \
	% sys.version_info[:2])'
	@echo "installing into .venv; the first time this takes some minutes"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,gateway,registry,test,dev]'
	@touch $@
