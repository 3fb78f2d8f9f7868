# Two commands for a newcomer: `make demo` and `make test`. Everything is installed into .venv with the versions of constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# torch first and pinned: a looser range may replace a build that is there already by a larger one.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Processes that share the tests, of one thread each.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test test-slow lint install install-extras docs format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed; name yours with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Installing into $(VENV); this takes minutes, most of them for torch."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch==2.13.0
	$(INSTALL) -e '.[dev]'
	touch $@

# mergekit and PEFT, against which tests compare; without them those tests are skipped and say so. PEFT also merges adapters.
# Everything a test may ask for: other programs to compare with, and every extra.
install-extras: install
	$(INSTALL) -e '.[dev,oracles,adapters,fast,baselines,ray,lm-eval,mo,minari,llm,sweeps,dashboards,smollm2]'

demo: install
	$(BIN)/hm3rl search experiment=tiny

test: install
	$(PYTEST)

test-slow: install
	$(PYTEST) -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	$(INSTALL) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf runs sweeps wandb dist build
