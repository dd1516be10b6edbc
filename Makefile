# Two commands, each good as the first: `make train` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/ready

.PHONY: train test check notebooks clean

train: $(READY)  ## train on the embedded digits, about a minute on two cores
	$(BIN)/pyro-vae train

test: $(READY)  ## the whole test suite
	$(BIN)/pytest -n 2

check: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(READY)  ## run all notebooks and store what they print
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

$(READY): pyproject.toml constraints.txt
	# Without ensurepip, which Debian keeps in a package of its own: the outer pip installs.
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv
