# One command installs, one runs: every target brings what it needs.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= .captionstream/demo
MINUTES ?= 30
PROFILE ?= all

.PHONY: help setup lint demo test bench soak lock audit settings clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

setup: $(STAMP) ## make .venv with everything in it

lint: $(STAMP) ## style, types, dependency conflicts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pip check

demo: $(STAMP) ## a whole stack here: pictures in, results out (DATA=dir, KEEP=1 leaves it running)
	$(BIN)/python -m trainer.demo --data-dir $(DATA) $(if $(KEEP),--keep)

# Many tests wait for servers, so three at a time; the slow files come first, as they are collected.
test: $(STAMP) ## all tests, on a real mongod and a real broker
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

BENCHES := run training decode silent_urls "snapshot_memory --documents 100000" \
  "recaption --documents 2000" "dead_letters --letters 100000"

bench: $(STAMP) ## measure; prints ratios as JSON, and fails in the end if one is below its goal
	@failed=; for bench in $(BENCHES); do echo "$$bench:"; \
	  $(BIN)/python -m tests.bench.$$bench || failed="$$failed$$bench; "; done; \
	test -z "$$failed" || { echo "below the goal: $$failed"; exit 1; }

soak: $(STAMP) ## kill processes at random under load for MINUTES=30, check every document (PROFILE=bare: nothing heals)
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --profile $(PROFILE)

lock: $(STAMP) ## write requirements.lock: the releases in .venv
	$(BIN)/pip freeze --exclude-editable --disable-pip-version-check \
		| sed -nE 's/^([A-Za-z0-9._-]+==[^+ ]+).*/\1/p' > requirements.lock

audit: ## known vulnerabilities of what requirements.lock names; asks a public service
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit -r requirements.lock --strict --disable-pip --no-deps

settings: $(STAMP) ## write deploy/SETTINGS.md again, from the code
	$(BIN)/python -m streams.operate.reference deploy/SETTINGS.md

clean: ## remove the environment and all local data
	rm -rf $(VENV) .captionstream
