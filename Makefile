# `make` alone lists the targets. Everything runs in .venv, which `make setup` builds from
# requirements.lock; all that has to be there before is Python 3.11 or newer, and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Settings of the caller's own Python must not leak into the kit's.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONSAFEPATH PYTHONDONTWRITEBYTECODE PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
unexport UV_SYSTEM_PYTHON UV_PROJECT UV_OFFLINE
export PYTHONNOUSERSITE := 1

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.made-from-lock
# The first one that runs and is new enough, looked for once and only when it is needed;
# `make setup PYTHON=/path/to/python3` overrides it.
ifeq ($(origin PYTHON),undefined)
PYTHON = $(eval PYTHON := $(shell for p in python3.11 python3 python3.12 python3.13 python; do \
	if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then echo "$$p"; break; fi; done))$(PYTHON)
endif
# Tests at a time; those that measure time run alone anyway. The quick ones compute. The others
# mostly wait, for servers to start and for clients to be answered, so two share a core; each takes half a gigabyte.
CORES := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))
check: PROCESSES ?= $(CORES)
PROCESSES ?= $(shell echo $$((2 * $(CORES) < 8 ? 2 * $(CORES) : 8)))
LOCKED = $(shell grep -c '^[a-z].*==' requirements.lock)
LOG := $(VENV)/setup.log
PIP = $(PY) -m pip install --disable-pip-version-check --no-input
SETUP_FAILED = tail -n 20 $(LOG) >&2; \
	echo "Setting up failed; all of it is in $(LOG). Correct it and run make again." >&2; exit 1

# uv fetches many packages at a time and leaves compiling to the first import, which makes minutes
# of pip's into seconds. It reads none of pip's settings, so the index that they name is handed on.
# A proxy's own certificate is known to the system, which pip asks and uv does only when told to.
define WITH_UV
	awk '/^[^ #]/ { ours = /^uv==/ } ours' requirements.lock > $(VENV)/uv.lock; \
	settings=$$($(PY) -m pip config list); \
	if grep -q '\.no-index=' <<< "$$settings"; then \
		echo "  with pip, whose settings name no index"; exit 1; fi; \
	index=$$(sed -n "s/^[^.]*\.index-url='\(.*\)'$$/\1/p" <<< "$$settings" | head -n 1); \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi; \
	install() { $(VENV)/bin/uv pip install --python $(PY) --color never \
		--require-hashes --requirement requirements.lock; }; \
	{ $(PIP) --quiet --only-binary :all: --require-hashes --requirement $(VENV)/uv.lock \
		&& { install || UV_SYSTEM_CERTS=1 install; }; } 2>&1 | tee -a $(LOG) | awk ' \
		/^Resolved/ { print "  fetching them"; fflush() } \
		/^Prepared/ { print "  installing them"; fflush() }' \
		|| { echo "  with pip, since uv could not ($(LOG) says why): some minutes"; exit 1; }
endef

define WITH_PIP
	$(PIP) --require-hashes --requirement requirements.lock 2>> $(LOG) | awk -v all=$(LOCKED) ' \
		/^(Collecting|Requirement already)/ { n += 1; \
			if (n % 25 == 0) { printf "  %d of %d packages fetched\n", n, all; fflush() } } \
		/^Installing collected/ { print "  installing them"; fflush() }'
endef

##@ Use it
investigate: $(STAMP) ## Run the investigation on real Triton releases and write the report (3 minutes)
	@$(PY) -m kit investigate $(ARGS)

lab: $(STAMP) ## Open JupyterLab on the first notebook
	@$(PY) -m jupyterlab --config=kit/ui/jupyter/jupyter_lab_config.json --notebook-dir=notebooks \
		--LabApp.default_url=/lab/tree/00_start_here.ipynb $(ARGS)

app: $(STAMP) ## Serve the panel to a browser (Voilà; 127.0.0.1, with a token)
	@$(PY) -m kit.ui.app $(ARGS)

image: ## Build the container image triton-crash-kit (needs Docker or podman; see compose.yaml)
	@engine=$$(command -v docker || command -v podman) || { \
		echo "No docker and no podman on the PATH: install one of them, then run make again."; exit 1; }; \
	"$$engine" build --tag triton-crash-kit $(ARGS) .

vllm: $(STAMP) ## Install real vLLM for the CPU beside the kit (about 2 GB; ARGS="--version 0.27.1")
	@$(PY) -m kit vllm install $(ARGS)

##@ Work on it
setup: $(STAMP) ## Build .venv from requirements.lock (again only when the lock changes)
	@echo "$(VENV) is up to date."

check: $(STAMP) lint ## Format, lint, types and the quick tests, which need no server (a minute)
	@echo "pytest"; $(PY) -m pytest -n $(PROCESSES) --dist worksteal \
		-m "not server and not browser and not slow" --durations 5 --durations-min 2 $(ARGS)

test: $(STAMP) lint ## Every check and every test; the few that fail beside others once more, alone
	@echo "pytest"; rm -f .pytest_cache/v/cache/lastfailed; \
		$(PY) -m pytest -n $(PROCESSES) --dist worksteal $(ARGS) || $(PY) tests/again.py $$?

test-long: $(STAMP) ## The same tests, each simulation and campaign at its full length
	@TRITON_CRASH_KIT_LONG_TESTS=1 $(PY) -m pytest -n $(PROCESSES) --dist worksteal $(ARGS)

course: $(STAMP) ## Derive the students' notebooks of the course from those with the solutions
	@$(PY) -m kit dev course

outputs: $(STAMP) ## Run the notebooks from recorded data and keep the outputs that readers see in them
	@$(PY) -m kit dev outputs $(ARGS)

lint: $(STAMP) ## Format, lint, spelling and types
	@echo "ruff format"; $(VENV)/bin/ruff format --check
	@echo "ruff check"; $(VENV)/bin/ruff check
	@echo "codespell"; $(VENV)/bin/codespell
	@echo "mypy"; $(VENV)/bin/mypy

test-vllm: $(STAMP) ## The tests that run real vLLM, in every tested version, inside real Triton
	@$(PY) -m kit vllm install --all
	@$(PY) -m pytest tests/vllm

bench: $(STAMP) ## Compare the load generator with its peers; writes benchmarks/results.json
	@$(PY) -m benchmarks $(ARGS)

lock: ## Write requirements.lock again from pyproject.toml (needs uv on the PATH)
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-strip-extras --all-extras pyproject.toml --output-file requirements.lock

clean: ## Remove caches, and servers and shared memory that a power cut left
	@if [ -x $(PY) ]; then $(PY) -m kit clean; fi
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	@find kit tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +
	@find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +

distclean: clean ## The same, and .venv; studies and reports stay
	@rm -rf $(VENV)

help:
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): requirements.lock
	@if [ -z "$(PYTHON)" ]; then \
		echo "The kit needs Python 3.11 or newer; none was found as python3.11 or python3."; \
		echo "Install one (Debian 12: apt-get install python3 python3-venv libpython3.11), or name"; \
		echo "it: make setup PYTHON=/path/to/python3"; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$($(PYTHON) --version) cannot make virtual environments: its ensurepip is missing."; \
		echo "Install it (Debian, as root: apt-get install python3-venv), then run make again."; \
		exit 1; fi
	@echo "Building $(VENV) with $$($(PYTHON) --version): $(LOCKED) packages, once."
	@$(PY) -c '' 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@: > $(LOG)
	@($(WITH_UV)) || { $(WITH_PIP); } || { $(SETUP_FAILED); }
	@$(PIP) --quiet --no-deps --no-build-isolation --editable . 2>> $(LOG) || { $(SETUP_FAILED); }
	@mkdir -p $(VENV)/etc/jupyter && cp kit/ui/jupyter/jupyter_lab_config.json $(VENV)/etc/jupyter/
	@touch $@

.PHONY: investigate lab app image vllm setup check test test-long course outputs lint test-vllm bench lock clean distclean help
