# Two commands do all the set-up on a fresh machine with Python 3.11+ and make:
#   make demo    the main job on the model and questions that ship with vlmscope
#   make test    the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

OLDEST := .venv-oldest
OLDEST_READY := $(OLDEST)/.ready

LATEST := .venv-latest
LATEST_READY := $(LATEST)/.ready

EXTRAS := .venv-extras
EXTRAS_READY := $(EXTRAS)/.ready

# What depends on transformers: the families, the engine, the loading of models.
ON_TRANSFORMERS := tests/families tests/engine tests/model

# One pass of the families that `make test` leaves out.
ONE_PASS := -k one_pass_equals_three tests/families/test_conformance.py

# Of each target, for `make fuzz`.
SECONDS_EACH := 30
FUZZED := csv tsv jsonl json rows judge verdicts labels manifest failures probe image shard research

# Every worker collects all tests; those that take longest begin first (tests/conftest.py).
PYTEST := -m pytest -n auto --dist worksteal

.PHONY: help demo test test-exhaustive faults fuzz test-oldest test-families-oldest test-transformers-latest \
	test-extras lint check format docs clean

help:
	@echo "make demo    the main job on the model and 2,000 questions that ship; in runs/demo"
	@echo "make test    the tests, in a few minutes"
	@echo "make test-exhaustive           what is left out of them: every family, every combination"
	@echo "make faults  every fault many times, under an hour; the table of docs/reliability.md"
	@echo "make test-oldest    all of them with the oldest supported transformers"
	@echo "make test-families-oldest      of make test, what depends on transformers, with the oldest"
	@echo "make test-transformers-latest  the same with the newest transformers there is"
	@echo "make test-extras               what needs torchvision, timm, bitsandbytes or Triton"
	@echo "make fuzz    every reader for $(SECONDS_EACH) seconds (SECONDS_EACH=300 for longer)"
	@echo "make lint    format, lint, types, import layers"
	@echo "make check   lint and test: what must pass before a commit"
	@echo "make format  mend format and simple lint"
	@echo "make docs    write docs/cli.md from the command line's own help"

demo: $(READY)
	$(BIN)/vlmscope demo --out runs/demo

test: $(READY)
	$(BIN)/python $(PYTEST) -m "not exhaustive"

test-exhaustive: $(READY)
	VLMSCOPE_EXAMPLES=thorough $(BIN)/python $(PYTEST) -m "exhaustive or hypothesis"

faults: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m faults --curve docs/images/soak.svg

# The oldest transformers that pyproject.toml allows.
test-oldest: $(OLDEST_READY)
	$(OLDEST)/bin/python $(PYTEST)

test-families-oldest: $(OLDEST_READY)
	$(OLDEST)/bin/python $(PYTEST) -m "not exhaustive" $(ON_TRANSFORMERS)
	$(OLDEST)/bin/python $(PYTEST) -m exhaustive $(ONE_PASS)

test-transformers-latest: $(LATEST_READY)
	$(LATEST)/bin/python $(PYTEST) $(ON_TRANSFORMERS)

# torchvision's operators are declared in the process of the tests only, so worker processes, which
# import it themselves, are left to make test.
test-extras: $(EXTRAS_READY)
	VLMSCOPE_TORCHVISION=1 TRITON_INTERPRET=1 $(EXTRAS)/bin/python $(PYTEST) -m "not exhaustive" \
		-k "not worker_processes" tests/families/test_conformance.py \
		tests/families/test_elementwise_kernels.py tests/families/test_repeated_images.py \
		tests/families/test_as_on_one_gpu.py \
		tests/engine/test_lengths.py tests/engine/test_image_layouts.py tests/model/test_quantized.py \
		tests/model/test_triton_kernels.py
	VLMSCOPE_TORCHVISION=1 $(EXTRAS)/bin/python $(PYTEST) -m exhaustive $(ONE_PASS)

$(LATEST_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		"$$(grep '^torch==' constraints.txt)"
	$(LATEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		-e ".[dev]" --upgrade transformers
	@touch $@

$(EXTRAS_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(EXTRAS)
	$(EXTRAS)/bin/python -m pip install --quiet --disable-pip-version-check \
		"$$(grep '^torch==' constraints.txt)"
	$(EXTRAS)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e ".[dev]" torchvision==0.28.0 timm==1.0.31 \
		bitsandbytes==0.50.2 triton==3.6.0
	@touch $@

$(OLDEST_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		"$$(grep '^torch==' constraints.txt)"
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		-e ".[dev]" "transformers==5.17.0"
	@touch $@

# atheris has wheels for some versions of Python only, so it is not among the packages of the tests.
fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fuzz]"
	@found=; for name in $(FUZZED); do \
		$(BIN)/python fuzz/run.py $$name -max_total_time=$(SECONDS_EACH) -timeout=10 \
			|| found="$$found $$name"; \
	done; test -z "$$found" || { echo "something was found in:$$found"; exit 1; }

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	$(BIN)/python -m typer vlmscope.cli utils docs --name vlmscope --output docs/cli.md

clean:
	rm -rf $(VENV) $(OLDEST) $(LATEST) $(EXTRAS) runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# torch comes first and by its exact version, so that nothing else chooses a build for us.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "vlmscope needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into $(VENV): 2.5 GB, several minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
