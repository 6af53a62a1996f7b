# Everything starts here: each target sets up what it needs, quietly, and only once.
# The newest suitable Python of this machine (Ray has wheels for these four); make PYTHON=... chooses
# another. Where there is none, uv fetches one.
PYTHON ?= $(shell for v in 3.14 3.13 3.12 3.11; do python$$v -c "import venv, ensurepip" 2>/dev/null && echo python$$v && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Ray starts a dozen Python processes: without bytecode on disk each compiles its imports again, and
# on a busy machine that takes longer than Ray waits for them.
unexport PYTHONDONTWRITEBYTECODE
# uv reads its own variable; a folder that offers a CPU build of torch is passed on where one is set.
UV := UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/uv pip install --quiet --python $(BIN)/python --overrides overrides.txt
# A CUDA build of torch on a machine without a GPU costs 4 GB: uv asks torch's own index for the build
# that fits, unless a folder of wheels is given.
BACKEND := $(if $(PIP_FIND_LINKS),,--torch-backend=auto)

# Installed apart: torchvision from a registry is built for CUDA and breaks beside a CPU build of torch.
OPEN_CLIP := "open_clip_torch>=3.3,<4" "torchvision>=0.28,<0.29" "timm>=1.0.31,<2" ftfy wcwidth regex

define install
@$(UV) $(BACKEND) $(1) || { [ -n "$(BACKEND)" ] && echo "torch's own index does not answer: torch comes from the default registry, which may be a CUDA build" && $(UV) $(1); }
endef

.PHONY: help benchmark test short lint format docs fresh clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/uv:
	@if [ -n "$(PYTHON)" ]; then \
		command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed, allowed: make PYTHON=/path/to/python, version 3.11 to 3.14" >&2; exit 2; }; \
		$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || { echo "error: $(PYTHON) is $$($(PYTHON) --version), allowed: 3.11 to 3.14" >&2; exit 2; }; \
		$(PYTHON) -m venv $(VENV) || exit 2; \
	elif command -v uv >/dev/null; then \
		echo "no Python 3.11 to 3.14 here: uv fetches 3.13"; uv venv --quiet --seed --python 3.13 $(VENV) || exit 2; \
	else \
		echo "error: no Python 3.11 to 3.14 with its venv module is installed and no uv to fetch one, allowed: install python3 with python3-venv, or uv" >&2; exit 2; \
	fi
	@$(BIN)/python -m pip install -qq --disable-pip-version-check uv

$(VENV)/installed: pyproject.toml | $(BIN)/uv
	@echo "setting up $(VENV) (the first time takes a few minutes)"
	$(call install,-e .)
	@touch $@

# gan-face-generate holds a small generator of synthetic faces; its own dependencies are not needed.
$(VENV)/installed-dev: pyproject.toml | $(BIN)/uv
	@echo "setting up $(VENV) for tests (the first time takes a few minutes)"
	$(call install,-e ".[dev]")
	@$(UV) --no-deps gan-face-generate==1.1.1
	@$(UV) --no-deps --target $(VENV)/extras/open_clip $(OPEN_CLIP)
	@touch $@ $(VENV)/installed

benchmark: $(VENV)/installed  ## set up, run the main job on the embedded default, show the results
	@$(BIN)/python jobs/benchmark.py --config jobs/configs/default.yaml --output runs/benchmark-$$(date +%Y%m%d-%H%M%S) $(ARGS)

# One process more than there are cores, at most four: tests that start Ray share one, which waits
# more than it computes.
WORKERS = $(shell cores=$$(nproc 2>/dev/null || sysctl -n hw.ncpu); echo $$((cores < 3 ? cores + 1 : 4)))

test: $(VENV)/installed-dev  ## set up, run the tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder $(ARGS)

# Every dependency that has parts of its own for each Python: torch, onnxruntime, OpenCV, Arrow, Ray,
# MLflow, pydantic. Another Python: make short VENV=.venv-3.11 PYTHON=python3.11
SHORT := tests/jobs/test_odd_paths.py tests/jobs/test_bad_input.py tests/infinite_id/test_generator.py \
	tests/pipelines/test_manifest.py tests/pipelines/serving/test_app.py tests/test_packaging.py

short: $(VENV)/installed-dev  ## set up, the short form of the tests; VENV= and PYTHON= for another Python
	@$(BIN)/python -m pytest $(SHORT) $(ARGS)

lint: $(VENV)/installed-dev  ## lint, format check, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/installed-dev  ## format the code, make the blocking client from the asyncio one
	@$(BIN)/python .ci/generate_client.py
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(VENV)/installed-dev  ## run its snippets, build the documentation: build/site/index.html
	@$(BIN)/python -m pytest -q --markdown-docs -p no:cacheprovider docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/site/index.html"

fresh:  ## both commands of the README on bare Debian machines (root, long)
	@.ci/fresh

clean:  ## remove the virtual environment and caches
	@rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
