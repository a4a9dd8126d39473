# Two commands matter: `make demo` and `make test`. Both set up .venv by themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MODELS_VENV := .venv-models
MODELS_READY := $(MODELS_VENV)/.ready
# The release that the training tests were last seen to pass with.
TORCH := torch==2.13.0

SEEDS ?= 1000

.PHONY: setup demo sim mutants test test-models test-root deb lint docs fuzz bench bench-quick soak clean

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/continuer demo

test: $(READY)
	$(BIN)/python -m tests.side_by_side

# With TensorFlow and PyTorch, gigabytes that nothing else needs; 'make test' skips what they test.
# Two runs: PyTorch's optimizers load its compiler, which crashes in a process with TensorFlow.
test-models: $(MODELS_READY)
	$(MODELS_VENV)/bin/python -m pytest tests/models --ignore-glob='*/test_train_*'
	$(MODELS_VENV)/bin/python -m pytest tests/models/test_train_*.py

$(MODELS_READY): pyproject.toml
	$(PYTHON) -m venv $(MODELS_VENV)
	$(MODELS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.[dev,models,train]' $(TORCH)
	touch $(MODELS_READY)

# What needs root or system packages; by hand it skips with a message that says what to install.
test-root: $(READY)
	$(BIN)/python -m pytest -m root tests/root

# Debian packages, into dist/. Needs Debian's python3-venv and dpkg-deb; no root.
deb:
	systemd/build-deb agent dist
	systemd/build-deb coordinator dist

# Seed after seed of faults against the real cores in virtual time: make sim SEEDS=1000
sim: $(READY)
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

# Defects planted on purpose, each of which the simulator has to find.
mutants: $(READY)
	$(BIN)/python -m pytest tests/sim/test_mutants.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documents that are printed from the code; tests say when they are not current.
docs: $(READY)
	$(BIN)/python -m continuer.reference docs
	$(BIN)/python -m tests.models.malformed

# Guided by coverage, one target after the other, FUZZ_SECONDS each; tests run short ones without.
FUZZ_SECONDS ?= 600
fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	for target in header plan tensors manifest configuration key_files; do \
	  $(BIN)/python -m tests.fuzz.run $$target $(FUZZ_SECONDS) || exit 1; \
	done

bench: $(READY)
	$(BIN)/python -m bench

# All of it in few runs, beside the results of record.
bench-quick: $(READY)
	$(BIN)/python -m bench --quick --results bench/quick.json

# Requests through faults at random on hosts of their own; needs root. Goes on with the same file.
MINUTES ?= 30
soak: $(READY)
	$(BIN)/python -m bench soak --minutes $(MINUTES)

clean:
	rm -rf $(VENV) $(MODELS_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
