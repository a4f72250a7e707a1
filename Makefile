# A newcomer needs `make demo` and `make test`; `make help` lists the rest. Each target names its stages, which are scripts;
# scripts/stages.sh runs them and says which one it is at and how long it took so far.
.DEFAULT_GOAL := help
.PHONY: help setup build image images up down demo serve test check lint msrv bench chaos restarts soak older-cli frames mutants selftest fuzz fmt docs clean-host \
	release release-files release-images conformance-image

stages := @scripts/stages.sh

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: ## Install whatever any target needs, or say what is missing and how to install it
	$(stages) 'setup.sh check'

build: ## Compile the server, the fixtures and the conformance suite
	$(stages) 'setup.sh build' build.sh

image: ## Build the image of workspaces, workspace-base:latest
	$(stages) 'setup.sh demo' image.sh

images: ## Build every image that tests use: workspaces, server, scripted model, PostgreSQL, Redis
	$(stages) 'setup.sh demo' 'image.sh demo' images.sh

demo: ## Run one conversation end to end and prove that its workspace is locked; ends with "demo: ok"
	$(stages) 'setup.sh demo' 'image.sh demo' demo.sh

serve: ## Serve on 127.0.0.1:8000 with a scripted model; MODEL=anthropic or bedrock for a real one
	$(stages) 'setup.sh demo' 'image.sh demo' serve.sh

up: ## Start server, PostgreSQL and Redis by Compose; PROFILES=demo adds the scripted model
	@PROFILES="$(PROFILES)" scripts/stages.sh 'setup.sh up' image.sh up.sh

down: ## Stop them and remove their data; KEEP_DATA=1 keeps the data
	@scripts/down.sh

test: ## Run the cheap checks, then every test and scenario
	$(stages) 'setup.sh test' checks.sh 'image.sh demo' images.sh test.sh

check: ## Everything a contribution must pass: make test, clippy, documentation, shellcheck, licences
	$(stages) 'setup.sh check' checks.sh 'image.sh demo' images.sh test.sh check.sh

lint: ## The lints of make check alone: clippy, documentation, shellcheck, licences
	$(stages) 'setup.sh check' checks.sh check.sh

msrv: ## Compile everything with the oldest supported Rust (rust-version in Cargo.toml)
	$(stages) 'setup.sh build' msrv.sh

bench: ## Measure workspaces, the service and the egress proxy; FILTER=bulk for a part
	@FILTER="$(FILTER)" scripts/stages.sh 'setup.sh demo' image.sh bench.sh

older-cli: ## Run the scenarios about runs, people and tools with the oldest supported CLI, in an image of its own
	@CLI=oldest scripts/stages.sh 'setup.sh test' 'image.sh all' older-cli.sh

frames: ## Record the frames of the supported CLIs, fixtures of the driver's tests
	$(stages) 'setup.sh demo' record-frames.sh

mutants: ## Put defects into the source, one at a time, and require that the scenarios and tests named for each notice; WORDS=… for some
	@WORDS="$(WORDS)" scripts/stages.sh 'setup.sh test' 'image.sh all' images.sh 'mutants.py $(WORDS)'

selftest: ## Launch broken deployments, each of which a named scenario must catch; FILTER='family(RUN)' for a part
	@FILTER="$(FILTER)" scripts/stages.sh 'setup.sh test' 'image.sh all' selftest.sh

chaos: ## Kill the server a hundred times at random moments; SEED=n repeats the run that began with that seed
	$(stages) 'setup.sh test' 'image.sh demo' images.sh 'chaos.sh $(SEED)'

restarts: ## Restart two servers in turn in the middle of 200 runs, of which none may be lost; N=… for another number
	$(stages) 'setup.sh test' 'image.sh demo' build.sh 'restarts.sh $(N)'

soak: ## Let fifty sessions live for a thousand turns, with which nothing may grow; TURNS=… SESSIONS=… for other numbers
	$(stages) 'setup.sh test' 'image.sh demo' build.sh 'soak.sh $(TURNS) $(SESSIONS)'

fuzz: ## Fuzz the parsers that read an attacker's bytes first, a minute each; FUZZ_SECONDS=…
	$(stages) 'setup.sh build' fuzz.sh

fmt: ## Format every Rust file
	@scripts/fmt.sh

docs: ## Write the generated files of docs/: the API's description, the catalogue of scenarios
	$(stages) 'setup.sh build' build.sh docs.sh

release: ## Build an optimised server, target/release/nagaya
	$(stages) 'setup.sh build' 'build.sh release'

release-files: ## Build static programs (server; conformance suite with its fixtures) with checksums and an SBOM, target/release-files
	$(stages) 'setup.sh build' release.sh

release-images: ## Build the images of a release, named IMAGE_PREFIX/{workspace,server,conformance}:VERSION; PUSH=1 pushes them
	@IMAGE_PREFIX="$(IMAGE_PREFIX)" VERSION="$(VERSION)" PUSH="$(PUSH)" scripts/stages.sh 'setup.sh demo' image.sh release-images.sh

conformance-image: ## Build the image of the conformance suite with its fixtures, nagaya/conformance:latest or CONFORMANCE_IMAGE
	@CONFORMANCE_IMAGE="$(CONFORMANCE_IMAGE)" scripts/stages.sh 'setup.sh demo' conformance-image.sh

clean-host: ## Remove every container, image and socket directory of this project from this machine
	@scripts/clean-host.sh
