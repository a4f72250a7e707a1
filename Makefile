# What a newcomer needs is `make demo` and `make test`; `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help setup build image images up down demo serve test check bench chaos mutants selftest fuzz fmt docs clean-host release

help: ## List what can be done
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: ## Install what is missing (Docker, a C compiler, cargo-nextest), or say what to do
	@scripts/setup.sh

build: setup ## Compile the server, the fixtures and the suite
	@scripts/build.sh

image: build ## Build the image rooms start from, workspace-base:latest
	@scripts/image.sh

images: image ## Build what deployments are tested with: server, scripted model, PostgreSQL, Redis
	@NAGAYA_PROFILE=debug scripts/server-image.sh
	@scripts/service-images.sh

up: setup ## Bring up server, PostgreSQL and Redis by Compose; PROFILES=demo adds the scripted model
	@scripts/image.sh
	@PROFILES="$(PROFILES)" scripts/up.sh

down: ## Take it down again, with its data; KEEP_DATA=1 keeps that
	@scripts/down.sh

demo: image ## One conversation end to end, with proof that its room is locked; ends with "demo: ok"
	@scripts/demo.sh

serve: image ## Serve on 127.0.0.1:8000 with a scripted model; MODEL=bedrock for the real one
	@scripts/serve.sh

test: images ## Every test and scenario
	@scripts/test.sh

check: build ## Formatting, lints, documentation, then every test and scenario
	@scripts/check.sh
	@$(MAKE) --no-print-directory test

bench: image ## Measure rooms, and the egress proxy beside its peers; FILTER=bulk for a part
	@FILTER="$(FILTER)" scripts/bench.sh

mutants: setup ## Weaken the egress proxy in every known way and see the tests catch it (some ten minutes)
	@scripts/mutants.py

selftest: image ## Launch broken deployments, each of which a named scenario must catch; FILTER='family(RUN)' for a part
	@scripts/selftest.sh

fuzz: setup ## Fuzz what an attacker's bytes meet first, a minute each; FUZZ_SECONDS=…
	@scripts/fuzz.sh

fmt: ## Format the code
	@cargo fmt --all

docs: build ## Write what of docs/ is generated: the API's description, the catalogue of scenarios
	@scripts/docs.sh

chaos: image ## Kill the server a hundred times at random moments; SEED=n repeats what began with that seed
	@scripts/chaos.sh $(SEED)

release: setup ## An optimised server binary, target/release/nagaya
	@cargo build --release --locked -p nagaya-server

clean-host: ## Remove every container, image and socket directory of ours from this machine
	@scripts/clean-host.sh
