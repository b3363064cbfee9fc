# The commands of daily work. `make up` and `make test` start from a fresh clone on Debian 12 or Ubuntu, as root.
.DEFAULT_GOAL := help
PROVISION := target/release/provision
.PHONY: help up test test-long lint bench build clean deps down

help: ## List these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

deps: ## Install the tools that building and sandbox hosts need
	@scripts/install-deps

build: deps ## Build target/release/provision
	cargo build --release --locked

up: build ## Make a blank sandbox host and provision it
	$(PROVISION) sandbox up
	$(PROVISION) -i inventory/sandbox.yml secret init
	$(PROVISION) -i inventory/sandbox.yml up

down: ## Remove the sandbox host
	$(PROVISION) sandbox down

lint: deps ## Formatting and clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

test: deps ## Everything that proves the promises
	scripts/test

test-long: deps ## Fuzz targets, a minute each, and a host from a bundle
	scripts/test-long

bench: build ## Side-by-side benchmarks
	bench/run

clean: ## Remove what was built here (caches stay)
	cargo clean
