# make demo: install, then fine-tune a tiny CLIP on built-in scenes.   make test: install, then every test.
# make study: the methods compared on built-in scenes; if stopped, the same command resumes it.
# A machine without a GPU saves 5 GB: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin

.PHONY: help install demo study study-full test lint docs lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install: $(VENV)/.installed ## create .venv and install degla with what its tests need

$(VENV)/.installed: pyproject.toml
	@echo "Installing into $(VENV): a few minutes, most of it PyTorch"
	@$(PYTHON) -m venv $(VENV)
	@$(if $(TORCH_INDEX),$(BIN)/pip install --quiet --index-url $(TORCH_INDEX) torch torchvision)
	@$(BIN)/pip install --quiet -e '.[dev]'
	@$(BIN)/pip install --quiet --no-deps 'hydra-optuna-sweeper==1.3.0' # it works with today's Optuna, but forbids it
	@touch $@

demo: install ## fine-tune a tiny CLIP offline; prints before and after
	@$(BIN)/python -m degla.train experiment=demo

study: install ## compare five methods on built-in scenes, about an hour on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/python -m degla.train +sweep=study
	$(BIN)/python -m degla.study

study-full: install ## every method, more rates and seeds, longer runs: about twelve hours
	OMP_NUM_THREADS=1 $(BIN)/python -m degla.train +sweep=study_full
	$(BIN)/python -m degla.study runs=runs/study_full

test: install ## run every test on as many cores as there are
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist load --maxschedchunk 1

lint: install ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

lock: ## renew requirements.lock (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --generate-hashes --no-emit-index-url -o requirements.lock

clean: ## remove what was installed; runs/ stays
	rm -rf $(VENV) dist build site *.egg-info
