# Every target sets up .venv by itself when it is needed. PYTHON=python3.12 chooses the interpreter that makes it.
PYTHON ?= python3
ARGS ?= experiment=first_look
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
DOCS := $(VENV)/.docs

.PHONY: install run test bench findings gallery gallery-write docs notebook lint tensorboard clean

install: $(STAMP)

# torch first and by its exact version: where a CPU build of it is at hand, nothing else is fetched
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

run: $(STAMP)
	$(BIN)/python -m wavebase.run $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest

bench: $(STAMP)
	$(BIN)/python bench/recurrence.py
	$(BIN)/python bench/exactness.py
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/parametrization.py
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/one_step.py --write
	$(BIN)/python bench/sweeps.py --turns 1
	$(BIN)/python bench/cosine.py

findings: $(STAMP)
	$(BIN)/python experiments/findings.py

gallery: $(STAMP)
	$(BIN)/python experiments/gallery.py --check

gallery-write: $(STAMP)
	$(BIN)/python experiments/gallery.py --write

$(DOCS): $(STAMP)
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	touch $@

# from nothing: the pages are also made of docstrings and of conf/
docs: $(DOCS)
	rm -rf site
	$(BIN)/sphinx-build -qWE --keep-going -d $(VENV)/.doctrees docs site

notebook: $(DOCS)
	$(BIN)/python -m nbconvert --to notebook --execute --ExecutePreprocessor.record_timing=False --inplace docs/construction_to_verdict.ipynb

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tensorboard: $(STAMP)
	$(BIN)/tensorboard --logdir outputs

clean:
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache
