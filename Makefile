# Flowbrush. `make help` lists what there is; `make run` and `make test` work on a bare machine.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
RUN_STAMP := $(VENV)/.run-installed
DEV_STAMP := $(VENV)/.dev-installed
TRITON := $(VENV)/triton
# What the product is made and measured with: long tests, which change seldom with anything else.
WORKSHOP := $(addprefix tests/,$(addprefix backends/torch_cuda/,bench training test_bench_cpu.py test_bench_turns.py) \
  $(addprefix desktop/commands/,test_bench.py test_train_command.py))
# The tests start many processes: none compiles again what another has compiled, whatever the shell says.
PYTEST := QT_QPA_PLATFORM=offscreen OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help setup run test workshop kernels check format bench package clean

help: ## What each target does
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(RUN_STAMP) ## Open the window; without a display, run the same job as `flowbrush demo`
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || [ "$$(uname)" = Darwin ]; then \
	  $(BIN)/flowbrush; \
	else \
	  echo "No display here, so the same job runs without a window: flowbrush demo"; \
	  $(BIN)/flowbrush demo --output out; \
	fi

setup: $(DEV_STAMP) ## Install everything for development into .venv

test: $(DEV_STAMP) ## Run the tests of the product, or those named: make test TESTS=tests/flux_core
	@$(PYTEST) --dist loadfile $(or $(TESTS),$(WORKSHOP:%=--ignore=%))

workshop: $(DEV_STAMP) ## Run the tests of training and measuring
	@$(PYTEST) --dist loadfile $(WORKSHOP)

# triton is 700 MB, which the other tests do not need; kept apart, because with it they would run these, too.
kernels: $(TRITON) ## Run the tests of the GPU's kernels in Triton's interpreter (Linux)
	@PYTHONPATH=$(TRITON) $(PYTEST) --dist worksteal $$(grep -rl --include='test_*.py' triton_only tests)

check: $(DEV_STAMP) ## Format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(DEV_STAMP) ## Put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(RUN_STAMP) ## Measure the first picture on this machine
	$(BIN)/flowbrush bench first-picture

package: $(DEV_STAMP) ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls -l dist

clean: ## Remove the environment and what was built
	rm -rf $(VENV) build dist out *.egg-info

# torch comes first and pinned: an open range would pull gigabytes of a newer build.
$(RUN_STAMP): pyproject.toml packaging/setup.sh
	@packaging/setup.sh $(PYTHON) $(VENV) run
	@touch $@

$(DEV_STAMP): pyproject.toml packaging/setup.sh
	@packaging/setup.sh $(PYTHON) $(VENV) dev
	@touch $@ $(RUN_STAMP)

$(TRITON): $(DEV_STAMP)
	@$(BIN)/python -m pip --disable-pip-version-check --quiet install --no-deps --target $@ triton==3.7.1
	@touch $@
