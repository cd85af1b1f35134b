# `make serve` and `make test` need nothing but Python 3.11+ with pip and venv.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# The locks name no host: they install from whatever index pip is configured for. botocore, which
# the extra `bedrock` needs, does not take a newer python-dateutil.
COMPILE = $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
  --upgrade-package 'python-dateutil<3'

.PHONY: serve test unit lint types imports check lock sbom bench chaos soak fuzz wall clean

serve: $(VENV)/.serving ## set up and serve on http://127.0.0.1:4000
	$(BIN)/tollway serve

test: $(STAMP) ## set up and run the whole test suite
	$(BIN)/pytest -n auto --durations 15

check: lint types imports

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

bench: $(STAMP) ## CPU per request, start time, memory
	$(BIN)/python -m benchmarks

# How long `make chaos` and `make soak` go on for, each.
DURATION ?= 7200

chaos: $(STAMP) ## kills of every process, a broken disk, locks, clocks, crowds, reloads, at greater numbers
	TOLLWAY_CHAOS_S=$(DURATION) TOLLWAY_KILLS=100 TOLLWAY_LOCK_S=30 TOLLWAY_PARALLEL_STREAMS=500 \
	  TOLLWAY_STALLED_CLIENTS=1000 TOLLWAY_IDLE_SOCKETS=5000 TOLLWAY_DISCONNECTS=1000 \
	  TOLLWAY_RELOADS=100 TOLLWAY_RELOAD_STREAMS=500 \
	  $(BIN)/pytest -s tests/soak/test_chaos.py tests/e2e/test_crash.py tests/e2e/test_faults.py \
	  tests/e2e/test_reload.py tests/e2e/test_parallel_streams.py tests/e2e/test_guard.py \
	  tests/e2e/test_negative.py

soak: $(STAMP) ## load for two hours, or `DURATION=300` seconds, with an audit each minute
	TOLLWAY_SOAK_S=$(DURATION) $(BIN)/pytest -s tests/soak/test_soak.py

fuzz: $(STAMP) $(VENV)/.atheris ## a million bodies, and the parsers guided by their coverage
	TOLLWAY_BODIES=1000000 TOLLWAY_EXAMPLES=300 TOLLWAY_FUZZ_S=300 $(BIN)/pytest -s tests/fuzz

wall: $(STAMP) ## a provider that fails at every byte of its answer, in eight ways
	TOLLWAY_WALL_STRIDE=1 $(BIN)/pytest -s tests/e2e/test_byte_wall.py

lock: $(STAMP) ## pin every dependency anew, with hashes
	$(COMPILE) --output-file=requirements.lock pyproject.toml
	$(COMPILE) --constraint=requirements.lock --output-file=requirements-dev.lock \
	  requirements-dev.in requirements.lock
	$(COMPILE) --output-file=tests/e2e/openai-2.lock tests/e2e/openai-2.in
	$(COMPILE) --output-file=tests/e2e/llmock.lock tests/e2e/llmock.in
	$(COMPILE) --output-file=tests/fuzz/atheris.lock tests/fuzz/atheris.in

sbom: $(STAMP) ## dist/sbom.json: all that serving needs, as CycloneDX
	mkdir -p dist
	$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
	  --output-file dist/sbom.json

clean:
	rm -rf $(VENV) dist build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Only what serving needs; a development set-up serves too.
$(VENV)/.serving: requirements.lock pyproject.toml | $(VENV)/bin/python
	test -f $(STAMP) || $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	test -f $(STAMP) || $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(STAMP): requirements-dev.lock tests/e2e/openai-2.lock tests/e2e/llmock.lock tests/e2e/npm/package-lock.json pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --upgrade \
	  --target $(VENV)/openai-2 -r tests/e2e/openai-2.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --upgrade \
	  --target $(VENV)/llmock -r tests/e2e/llmock.lock
	if command -v npm >/dev/null; then npm ci --silent --prefix tests/e2e/npm; \
	else echo "npm is not here: the tests with peers from npm will be skipped"; fi
	touch $@

$(VENV)/.atheris: tests/fuzz/atheris.lock | $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
	  --upgrade --target $(VENV)/atheris -r $< || \
	  echo "atheris has no wheel for this machine: its tests will be skipped"
	touch $@
