# `make demo` needs Python 3.11 or newer and nothing else; everything is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NODE := tests/interop/node
NODE_PACKAGES := $(NODE)/node_modules/.package-lock.json

.PHONY: demo test check soak simulate crowd adversary bench budget-race agent-kills fuzz cases edges stream limits audit install clean redis

demo: $(VENV)/.runtime            ## chain, provider and agent on this machine; every sum checked
	@$(BIN)/paywall demo $(ARGS)

JOBS ?= auto

test: $(VENV)/.development redis  ## the whole test suite, on every core: JOBS=1 for one
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: $(VENV)/.development       ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

.PHONY: interop node
interop: $(VENV)/.development $(NODE_PACKAGES) ## we and the official SDKs, in Python and TypeScript: the matrix
	@$(BIN)/python -m pytest tests/interop/*.py $(NODE) $(ARGS)

soak: $(VENV)/.development redis  ## many workers, agents and faults on one Redis; every unit accounted for
	@PYTHONPATH=tests $(BIN)/python -m soak $(ARGS)

adversary: $(VENV)/.development redis ## thieves that withdraw, claimers that are killed; nothing may be lost
	@PYTHONPATH=tests $(BIN)/python -m adversary $(ARGS)

SEED ?= 1
PAYMENTS ?= 20000

simulate: $(VENV)/.development    ## everything at once in virtual time, from one seed; 10^6: PAYMENTS=1000000
	@PYTHONPATH=tests $(BIN)/python -m simulate --seed $(SEED) --payments $(PAYMENTS) $(ARGS)

CROWDS ?= 2000

crowd: $(VENV)/.development       ## many payments in flight on one channel, in any order; CROWDS=20000
	@PAYWALL_CROWDS=$(CROWDS) $(BIN)/python -m pytest -n $(JOBS) tests/test_crowd.py $(ARGS)

bench: $(VENV)/.development redis ## what a paid request costs, beside others; .bench/latest.json
	@$(MAKE) --no-print-directory $(NODE_PACKAGES) || echo "express and hono are left out"
	@PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

fuzz: $(VENV)/.development        ## a million hostile inputs; ARGS="--inputs 50000" for fewer
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

cases: $(VENV)/.development redis ## what must not go wrong, and the tests that hold it, run
	@PYTHONPATH=tests $(BIN)/python -m cases $(ARGS)

budget-race: $(VENV)/.development ## a hundred seeded races of tasks and processes for one budget
	@PYTHONPATH=tests $(BIN)/python -m budget_race $(ARGS)

agent-kills: $(VENV)/.development ## an agent killed -9 at random points, two hundred seeds; three ledgers compared
	@PYTHONPATH=tests $(BIN)/python -m agent_kills $(ARGS)

edges: $(VENV)/.development redis ## stores against each other, with amounts where their numbers end
	@PAYWALL_EDGE_SEEDS=20 $(BIN)/python -m pytest tests/stores/test_edges.py $(ARGS)

stream: $(VENV)/.development      ## 200 MiB each way through the proxy, in flat memory
	@PAYWALL_STREAM_MIB=200 $(BIN)/python -m pytest tests/test_cli_proxy.py -k flat $(ARGS)

limits: $(VENV)/.runtime          ## every bound of the system, its unit and its meaning
	@$(BIN)/paywall limits $(ARGS)

audit: $(VENV)/.development       ## what is installed against the published advisories
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[audit]'
	@PYTHONPATH=tests $(BIN)/python -m audit $(ARGS)

install: $(VENV)/.development     ## everything, for working on paywall itself

redis:                            ## redis-server, for the tests: installed where that may be done
	@command -v redis-server >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing redis-server …"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq redis-server >/dev/null; \
		elif command -v brew >/dev/null; then brew install --quiet redis; fi; } || true
	@command -v redis-server >/dev/null \
		|| { echo "the tests need redis-server: apt install redis-server, or brew install redis" >&2; exit 2; }

.PHONY: browser chromium
browser: $(VENV)/.development chromium ## the page and the dashboard in a real browser, with pictures in .bench/browser
	@$(BIN)/python -m pytest tests/browser $(ARGS)

chromium:                         ## Chromium, for `make browser` alone: installed where that may be done
	@command -v chromium >/dev/null || [ -n "$$PAYWALL_CHROMIUM" ] || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing chromium …"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
		elif command -v brew >/dev/null; then brew install --quiet --cask chromium; fi; } || true
	@command -v chromium >/dev/null || [ -n "$$PAYWALL_CHROMIUM" ] \
		|| { echo "make browser needs Chromium: apt install chromium, or brew install --cask chromium" >&2; exit 2; }

node:                             ## Node and npm, for `make interop` alone
	@command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' \
		|| { echo "make interop needs Node 20 or newer with npm: https://nodejs.org" >&2; exit 2; }

$(NODE_PACKAGES): $(NODE)/package.json | node
	@echo "installing npm packages into $(NODE)/node_modules …"
	@npm install --silent --prefix $(NODE)
	@touch $@

clean:                            ## removes what the other targets made
	rm -rf $(VENV) .bench .fuzz .hypothesis .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "paywall needs Python 3.11 or newer; say which with make PYTHON=…" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

# The demo uses the extras [chain,cli]; tests and checks use [dev], which has all of them.
$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[chain,cli]'
	@touch $@

$(VENV)/.development: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.runtime
