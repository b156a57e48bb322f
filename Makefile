# `make` alone says what there is to make. PYTHON names the Python that .venv is made from.
PYTHON ?= python3
OTHER_PYTHONS ?= python3.12 python3.13
VENV := .venv
BIN := $(VENV)/bin
DEMO := releases/demo
BENCHMARKS := $(sort $(wildcard benchmarks/bench_*.py))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Pyright would ask the network whether there is a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check bench soak docs clean constraints

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/core.stamp ## Train on MovieLens-100K, show the report and a list for user 42
	$(BIN)/candidfeed fetch ml-100k
	$(BIN)/candidfeed build ml-100k -o $(DEMO)
	$(BIN)/candidfeed recommend $(DEMO) --user 42

# Both runs compile much the same: the second finds what the first has compiled.
test: $(VENV)/dev.stamp ## Run all tests
	@set -e; compiled=$$(mktemp -d); trap 'rm -rf "$$compiled"' EXIT; export JAX_COMPILATION_CACHE_DIR="$$compiled"; set -x; \
	$(BIN)/pytest -n 2 --dist worksteal --ignore=tests/serving; \
	$(BIN)/pytest tests/serving

check: $(VENV)/dev.stamp ## Format, lint, types and import contracts, in under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/dev.stamp ## Run each benchmark in its short form
	@set -e; for benchmark in $(BENCHMARKS); do \
		echo "$$benchmark --short"; $(BIN)/python "$$benchmark" --short; done

soak: $(VENV)/dev.stamp ## An hour of load, 200 kills and 1,000 replays of the feed service
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/kill_rounds.py
	$(BIN)/python benchmarks/replay_check.py

clean: ## Remove what make made: .venv, the demo's release, caches
	rm -rf $(VENV) $(DEMO) build dist src/*.egg-info .hypothesis .schemathesis
	rm -rf .pytest_cache .ruff_cache .import_linter_cache
	find src tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

docs: $(VENV)/dev.stamp ## Write docs/commands.md from the code
	$(BIN)/python scripts/make_command_page.py

constraints: ## Renew constraints.txt: the newest versions that serve every Python
	$(PYTHON) scripts/make_constraints.py $(OTHER_PYTHONS)

$(VENV)/venv.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "candidfeed needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# One stamp a set of packages: the demo does not wait for the tools of development.
$(VENV)/core.stamp: $(VENV)/venv.stamp pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/venv.stamp pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(VENV)/core.stamp $@
