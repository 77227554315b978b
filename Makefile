# make train   sets up .venv, then trains a small GPT on this machine with Ray
# make test    sets up .venv, then runs every check
# make bench   measures side by side
# make lock    works the exact versions out anew

PYTHON ?= python3
BIN = .venv/bin
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock

.PHONY: train test lint bench lock clean

train: .venv/run
	$(BIN)/onehour train gpt

test: .venv/dev lint
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy

bench: .venv/dev
	$(BIN)/python bench/data.py
	$(BIN)/python bench/parity.py
	$(BIN)/python bench/launch.py
	$(BIN)/python bench/checkpoint.py
	$(BIN)/python bench/chaos.py --faults 12

.venv/run: pyproject.toml requirements.lock
	@echo "Setting up .venv: about a minute, and some 500 MB to download (3 GB where torch brings CUDA) ..."
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onehour needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[all]'
	@touch $@

.venv/dev: .venv/run
	$(PIP) --editable '.[dev]'
	@touch $@

# In an environment of its own, so that nothing installed by hand gets in. A build tag such as +cpu is left out.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet 'torch==2.13.0' 'ray[default,train,tune]==2.60.0' --editable '.[dev]'
	.venv-lock/bin/pip freeze --exclude-editable | sed 's/ @ .*//; s/+cpu$$//' > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv
