# Two commands matter to a newcomer: `make demo` and `make test`. Each works on a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test check bench fuzz nightly picture format clean
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python >= 3.11 is needed"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed (PYTHON=/path/to/python3.11 make ...)"; exit 1; }
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]' || { echo "Installation failed. libp2p needs a C compiler and the GMP headers (Debian: apt-get install build-essential libgmp-dev)."; exit 1; }
	@touch $@

demo: $(STAMP)          ## the main job on real data, with a worker killed before your eyes
	@$(BIN)/p2pnode demo

test: $(STAMP)          ## everything that CI runs: pure tests, then journeys over real processes
	@$(BIN)/python -m pytest -m "not nightly"

check: $(STAMP)         ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/pyright

format: $(STAMP)
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(STAMP)         ## each figure as a ratio to a baseline in the same run
	@$(BIN)/p2pnode bench

picture: $(STAMP)       ## docs/demo.svg, drawn from one real run of the demo
	@$(BIN)/python -m simulations.picture

fuzz: $(STAMP)          ## a million spoilt frames and events at every parser
	@$(BIN)/python -m tests.fuzz --cases 1000000

nightly: $(STAMP)       ## the long runs: 500 power cuts, five minutes of storm, every mutant
	@$(BIN)/python -m pytest -m nightly --timeout 3600

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis
