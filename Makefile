# Two commands, each good as the first: `make train` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/ready

.PHONY: train test check docs notebooks lab clean

train: $(READY)  ## train on the embedded digits, about a minute on two cores
	$(BIN)/pyro-vae train

test: $(READY)  ## the whole test suite
	$(BIN)/pytest -n 2

check: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## the documentation, docs/_build/html/index.html
	rm -rf docs/_api docs/_build
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

lab: $(READY)  ## open the notebooks in the browser
	$(BIN)/jupyter lab notebooks

notebooks: $(READY)  ## run all notebooks and store what they print
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

$(READY): pyproject.toml constraints.txt
	# Without ensurepip, which Debian keeps in a package of its own: the outer pip installs.
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv docs/_api docs/_build docs/_generated docs/_notebooks
