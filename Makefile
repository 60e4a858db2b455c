# make demo   the main job from first to last on sample patients; ends in demo/story.html (DEMO=--window: and a window)
# make test   the whole test suite, by two processes side by side (WORKERS=0: by one)
# make quick  what takes two or three minutes of it
# make docs   the documentation site, in site/
# make screenshots  the pictures of the window in docs/images, taken anew
# make bench  docs/benchmarks.md, measured anew (BENCH=--long: all of it, an hour)
# They do all the set-up first; a second run finds it done.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DISPLAY_RUN := .ci/with-display
WORKERS ?= 2
# A worker that crashes ends the run with the test that crashed it; the tests start many processes, which compile once.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(DISPLAY_RUN) $(BIN)/python -m pytest -n $(WORKERS) --max-worker-restart 0

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick lint docs screenshots bench constraints clean

help:
	@sed -n 's/^# //p' Makefile

setup: $(READY)

$(READY): pyproject.toml constraints.txt .ci/setup .ci/system-packages
	@PYTHON="$(PYTHON)" .ci/setup $(VENV)

demo: $(READY)
	$(BIN)/doselabel demo --out demo $(DEMO)

test: $(READY)
	$(PYTEST) $(PYTEST_ARGS)

quick: $(READY)
	$(PYTEST) -m "not slow and not e2e" $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(READY)
	$(BIN)/mkdocs build --quiet

screenshots: $(READY)
	$(DISPLAY_RUN) $(BIN)/python docs/screenshots.py

bench: $(READY)
	$(BIN)/python benchmarks/all.py $(BENCH)

constraints: $(READY)
	$(BIN)/uv pip compile pyproject.toml --all-extras --python-version 3.11 \
		--no-header --no-annotate --upgrade --quiet --output-file constraints.txt

clean:
	rm -rf $(VENV) demo build dist site
