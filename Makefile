# Everything that is done in this repository. `make help` lists it.
#
# Where things are built: CARGO_TARGET_DIR if it is set; with CI=true, whose clones are fresh, $(GODWIT_CACHE)/target; else ./target.
# GODWIT_CACHE (default /var/cache/godwit) keeps what takes long to make. GODWIT_CRIO adds CRI-O nodes to the lab, see docs/lab.md.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
.NOTPARALLEL:

export GODWIT_CACHE ?= /var/cache/godwit
# The pods' network that the lab is to have: bridge or routed.
export GODWIT_LAB_NETWORK ?= bridge
ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(GODWIT_CACHE)/target
endif
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
PROGRAMS := $(TARGET)/release
LAB := $(PROGRAMS)/godwit-lab
export GODWIT_LAB_PROGRAM := $(LAB)
export PATH := $(PROGRAMS):$(GODWIT_CACHE)/tools/bin:$(HOME)/.cargo/bin:/usr/local/go/bin:$(PATH)

# Every command names the whole workspace and picks targets: features of dependencies are those of all selected packages together,
# so a command with -p of its own would compile many of them once more.
CARGO_FLAGS := --release --locked --workspace
# The end-to-end tests are no part of `cargo test` without a name.
E2E := cargo test $(CARGO_FLAGS) --test e2e

.PHONY: help
help: ## This list.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: bootstrap
bootstrap: ## Installs what this machine lacks (Debian, Ubuntu; as root). Does nothing when all is there.
	@scripts/bootstrap

.PHONY: build
build: bootstrap ## Builds all programs; the OCI wrapper as a static one; the library for criu dump.
	cargo build $(CARGO_FLAGS) --bins
	cargo rustc --locked --profile runtime -p godwit-runtime --bin godwit-runtime -- -C target-feature=+crt-static -C relocation-model=static
	cargo rustc --locked --profile runtime -p godwit-veil --features library --crate-type cdylib -- -C link-arg=-nostdlib -C link-arg=-nostartfiles

.PHONY: cache
cache: lab-program ## Makes what the lab is made of: two Debian roots, Kubernetes, Helm, CoreDNS, images. Once.
	@$(LAB) prepare

.PHONY: services
services: lab-program ## Makes what some end-to-end tests talk to: an OpenTelemetry collector and an OCI registry. Once.
	@$(LAB) prepare --services

.PHONY: lab
lab: lab-program ## Brings the lab up: a real Kubernetes cluster of several nodes on this machine.
	@$(LAB) up

.PHONY: lab-down
lab-down: ## Takes the lab away; its cache stays.
	@if [ -x $(LAB) ]; then $(LAB) down; else $(MAKE) lab-program && $(LAB) down; fi

.PHONY: lab-program
lab-program: bootstrap
	@cargo build $(CARGO_FLAGS) --bin godwit-lab

.PHONY: image
image: build ## Builds the container image localhost/godwit:dev and loads it into every node of the lab.
	@$(LAB) image --programs $(PROGRAMS)

.PHONY: lint
lint: bootstrap ## Formatting, clippy, licences and sources of dependencies.
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	cargo clippy $(CARGO_FLAGS) --test e2e -- -D warnings
	@scripts/deny

.PHONY: test
test: lint cache test-unit image test-road ## Lint, unit tests, and the road end to end: pods that move, and all that can fail on the way.
	@echo "make test: all passed"

.PHONY: test-all
test-all: test test-rest ## Everything: also what goes along the road, such as connections, checkpoints, traces, and the routed network.
	@echo "make test-all: all passed"

.PHONY: test-rest
test-rest: image test-beside test-routed-briefly ## What make test-all has and make test has not.
	@echo "make test-rest: all passed"

.PHONY: test-unit
test-unit: cache ## Unit tests, the protocol's model, and tests against this kernel's CRIU and runc.
	cargo test $(CARGO_FLAGS)

# A target for each part of the end-to-end tests, and one for all: with GODWIT_E2E_VMS=some a few run between virtual machines too.
.PHONY: test-e2e test-road test-beside
test-e2e: image lab ## All end-to-end tests on the lab.
test-road: export GODWIT_E2E_PART := road
test-beside: export GODWIT_E2E_PART := rest
test-road test-beside: image lab
test-e2e test-beside: services
test-e2e test-road test-beside:
	GODWIT_E2E_VMS=$${GODWIT_E2E_VMS:-none} $(E2E)

# What runs on the routed network too: parts of scenarios' names.
ROUTED := pod-network bare-pod connections same-address tunnel redis http-server loopback deployment kubectl-afterwards there-and-back
ROUTED_BRIEFLY := pod-network bare-pod http-server

.PHONY: test-routed
test-routed: image ## End-to-end tests on the lab's routed /32 network; then the lab has the bridge network again.
	@scripts/test-routed $(ROUTED)

.PHONY: test-routed-briefly
test-routed-briefly: image
	@scripts/test-routed $(ROUTED_BRIEFLY)

.PHONY: test-vm
test-vm: image lab ## End-to-end tests between virtual machines: other kernels, cgroup v2. They join the lab for it and go again.
	GODWIT_E2E_VMS=only $(E2E)

.PHONY: demo
demo: image lab ## Redis with 100,000 keys, moved there and back while a client writes. Leaves the lab up.
	@$(PROGRAMS)/godwit-demo

.PHONY: docs
docs: bootstrap ## The documentation as a book, in target/book/html.
	@scripts/docs $(TARGET)/book

.PHONY: docs-output
docs-output: image lab ## Runs the commands of the documentation and writes what they print into its pages. Keeps records for report-check too.
	GODWIT_DOCS_WRITE=1 cargo test $(CARGO_FLAGS) --test docs
	GODWIT_DOCS_WRITE=1 $(E2E) -- docs quick-start report

.PHONY: report-check
report-check: build ## Pages of `kubectl migrate report` in a real browser: both themes, wide and narrow, without a network.
	@scripts/report-check $(TARGET)/report

.PHONY: bench
bench: image lab ## Measures; writes benches/results/latest.json and prints it as a table.
	@$(PROGRAMS)/bench $(ANEW) $(WHAT)

.PHONY: bench-quick
bench-quick: image lab ## The same with fewer samples, in some minutes.
	@$(PROGRAMS)/bench --quick $(ANEW) $(WHAT)

.PHONY: bench-images
bench-images: bootstrap ## Reads CRIU's images with Godwit and with crit: time, memory, ratios. As root; installs crit in a root of its own.
	@cargo build $(CARGO_FLAGS) --quiet --bin kubectl-migrate
	@scripts/bench-images $(PROGRAMS)/kubectl-migrate

.PHONY: fuzz
FUZZ_SECONDS ?= 300
fuzz: bootstrap ## Every parser of images, archives and logs against mutated real files: FUZZ_SECONDS (300) each, with a new seed.
	GODWIT_FUZZ_SECONDS=$(FUZZ_SECONDS) GODWIT_FUZZ_SEED=$${GODWIT_FUZZ_SEED:-$$RANDOM$$RANDOM} cargo test $(CARGO_FLAGS) --test fuzz -- --nocapture

.PHONY: clean
clean: ## Takes the lab away and removes what was built here. The cache stays; its folder may be removed by hand.
	@if [ -e "$${GODWIT_LAB:-/var/lib/godwit-lab}/lab.json" ]; then $(MAKE) lab-down; fi
	rm -rf target
