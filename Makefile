# Two commands do all set-up on a fresh machine (Python 3.11+, make): `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed
ALONE   =
# What the tests are run by. With .ci/alone, several parts can run side by side: make -j2 test ALONE=.ci/alone
PYTEST  = $(ALONE) $(BIN)/python -m pytest

.PHONY: demo test processes docker unit server containers notebooks record picture lab bench lint clean

demo: $(STAMP)            ## three real shards, one frozen, one killed, the exact answer
	$(BIN)/labkit demo --launcher embedded

test: processes docker unit notebooks  ## tests on real servers, in containers too with Docker here, unit tests, every notebook

processes: $(STAMP)       ## tests on server processes
	$(PYTEST) -p no:nbval -m "not docker" tests --ignore tests/unit

docker: $(STAMP)          ## tests on containers, where they can run; pytest has a code, 5, for "none could"
	$(PYTEST) -p no:nbval -m docker tests --ignore tests/unit || test $$? -eq 5

unit: $(STAMP)            ## the quick part: no server is started
	$(PYTEST) -p no:nbval -n 2 tests/unit

server: $(STAMP)          ## the same promises on real servers
	$(BIN)/python -m pytest tests/server

containers: $(STAMP)      ## only what needs Docker: tests on containers, every notebook in containers; fails where it cannot
	LABKIT_TEST_DOCKER=require $(BIN)/python -m pytest -m docker tests

notebooks: $(STAMP)       ## every notebook against its stored outputs
	LABKIT_LAUNCHER=embedded $(PYTEST) --nbval --nbval-cell-timeout=120 -n 2 --dist loadscope notebooks

record: $(STAMP)          ## run every notebook and store what it shows
	LABKIT_LAUNCHER=embedded $(BIN)/python -m jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb
	$(BIN)/nbstripout --keep-output --keep-count --keep-id --extra-keys metadata.language_info.version notebooks/*.ipynb

picture: $(STAMP)         ## the README's pictures, from real reads with a frozen shard; the second one needs Chromium
	$(BIN)/python -m tests.picture notebooks/pictures/frozen_shard.svg
	$(BIN)/python -m tests.page_picture notebooks/pictures/access_point.png

lab: $(STAMP)             ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --ServerApp.root_dir=notebooks

bench: $(STAMP)           ## labkit beside raw sockets and its peers, and what the proxy costs; about a quarter of an hour
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' # older ones know of no groups
	$(BIN)/python -m pip install --quiet --group bench
	mkdir -p build
	$(BIN)/python -m tests.bench --json build/bench.json --plot build/bench.svg

lint: $(STAMP)            ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	touch $@

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
