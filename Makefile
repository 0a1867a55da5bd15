# What a person can do here. Everything is built into .venv; `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Compiled sources: the editable install in .venv serves plain Python files as they are.
SOURCES := $(wildcard takhin/*.pyx takhin/*.pxd takhin/*.h) $(shell find proto -name '*.proto')
INSTALLED := $(VENV)/.installed
BUILT := $(VENV)/.built
SANITIZE := build/sanitize
# What `make proto` compares with: the last released tag, else the main branch of origin.
BASE := $(shell git describe --tags --abbrev=0 2>/dev/null || git rev-parse --verify --quiet origin/main)
TESTS ?=
# Test processes side by side; each takes whole files.
JOBS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build run test crash powercut lint type bench bench-quick bench-peers proto sanitize binary folder sbom deb test-packaging clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(BUILT)  ## .venv with the project and its tools; .venv/bin/takhin is the command

$(INSTALLED): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@echo 'making $(VENV): this fetches the tools and takes a minute or two'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > $(VENV)/build-requires.txt
	@$(PIP) install -r $(VENV)/build-requires.txt
	@echo 'building the project'
	@$(PIP) install --no-build-isolation -e '.[test,bench,lint]'
	@touch $@

$(BUILT): $(INSTALLED) $(SOURCES)
	@echo 'compiling what has changed'
	@$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

run: $(BUILT)  ## build, then serve ./data on 127.0.0.1:9092 until Ctrl-C
	exec $(BIN)/takhin serve

test: $(BUILT)  ## all tests; TESTS='tests/unit -k segment' for some
	$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile $(TESTS)

crash: $(BUILT)  ## kill a loaded server again and again, check every record; SECONDS=600 SEED=...
	$(BIN)/python -m tests.crash.driver --seconds $(or $(SECONDS),60) --seed '$(SEED)'

powercut: $(BUILT)  ## all power cuts, kills, failing calls and flipped bits that are counted, not a sample; half an hour; SEED=...
	TAKHIN_POWERCUT_STATES=$(or $(STATES),0) TAKHIN_KILLS=0 TAKHIN_CALLS=0 TAKHIN_FLIP_ALL=1 TAKHIN_REAL_CUTS=20 \
	  TAKHIN_SEED=$(or $(SEED),1) $(BIN)/python -m pytest --timeout=0 tests/faults

lint: $(BUILT)  ## ruff, the import rules, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint

type: $(BUILT)  ## mypy, strict
	$(BIN)/mypy

bench: $(BUILT)  ## all benchmarks, twenty minutes; results in bench/results/ (the client needs Go)
	mkdir -p bench/results
	$(BIN)/python -m pytest -o addopts= -q --import-mode=importlib bench/micro --benchmark-json=bench/results/micro.json
	$(BIN)/python -m bench.system

bench-quick: $(BUILT)  ## the server against the bare transport, two pairs of each row
	$(BIN)/python -m bench.system --quick

bench-peers: $(BUILT)  ## the same work on NATS, Redis and Kafka, where they are installed
	$(BIN)/python -m bench.peers

proto: $(BUILT)  ## generate the protobuf code, lint the API, look for breaking changes
	$(BIN)/python setup.py -q build_ext --inplace
	$(BIN)/buf lint
ifneq ($(BASE),)
	$(BIN)/buf breaking --against '.git#ref=$(BASE),subdir=proto'
else
	@echo 'no tag and no origin/main here: nothing to compare the API with'
endif

# A copy of the tree, because a build in place has one set of compiled modules.
sanitize: $(INSTALLED)  ## unit and property tests under AddressSanitizer and UBSan
	rm -rf $(SANITIZE)/tree && mkdir -p $(SANITIZE)/tree
	tar -c $$(git ls-files -co --exclude-standard) | tar -x -C $(SANITIZE)/tree
	cd $(SANITIZE)/tree && TAKHIN_BUILD=sanitize $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd $(SANITIZE)/tree && \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	  $(CURDIR)/$(BIN)/python -m pytest --timeout=600 $(or $(TESTS),tests/unit tests/property)

# The executable has an environment of its own (build/binary) with pinned versions; .venv is not used.
binary:  ## dist/takhin, the one file; dist/folder, its unpacked form; licences and the bill of materials beside them
	$(PYTHON) packaging/binary/build.py

folder sbom: binary

deb: binary  ## dist/takhin_VERSION_ARCH.deb
	$(PYTHON) packaging/debian/package.py

test-packaging: deb $(BUILT)  ## the executable, the unit and the package; as root also under a real systemd
	TAKHIN_PACKAGING=1 $(BIN)/python -m pytest --timeout=900 $(or $(TESTS),$(addprefix tests/packaging/test_,executable.py package.py service.py container.py kubernetes.py page.py))

clean:  ## remove everything built, not ./data
	rm -rf $(VENV) build dist *.egg-info takhin/v1 takhin/_version.py takhin/*.so takhin/*.html .hypothesis .mypy_cache .ruff_cache
	find takhin tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
