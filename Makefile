PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.complete
ORACLES := .venv-oracles/.complete
PEERS := .venv-peers/.complete
S3 := .venv-s3/.complete

# The budget of `make run`: override on the command line, as in `make run STEPS=200000 SEED=1`.
STEPS ?= 40000
SEED ?= 0
RUN_DIR ?= runs/pong-$(shell date +%Y%m%d-%H%M%S)
# More arguments for `sbrl train` or pytest, as in `make run ARGS=learner.batch_size=32` or `make test ARGS='-k config'`.
ARGS ?=

# Of a file the tests run in order, in one process; the files are taken in the order that tests/conftest.py gives them.
WORKERS ?= -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

GENERATE = $(BIN)/python -m grpc_tools.protoc --proto_path=protos --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) \
	$(wildcard protos/sbrl/v1/*.proto)

.DEFAULT_GOAL := help
.PHONY: help setup oracles run test test-slow check check-protos format protos metrics-docs tree-docs dashboards faults quiet bench-learning bench-overhead bench-sampler bench-memory bench-segments bench-shard bench-heartbeats bench-traffic bench-whole-learner bench-actor-costs clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with everything installed (again when constraints.txt or pyproject.toml changed)

$(READY): pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON='$(PYTHON)' scripts/setup.sh

oracles: $(ORACLES) ## Make .venv-oracles, what losses and statistics are tested against (again when constraints-oracles.txt changed)

$(ORACLES): constraints-oracles.txt scripts/extra_venv.sh | $(READY)
	@scripts/extra_venv.sh oracles

.PHONY: s3
s3: $(S3) ## Make .venv-s3, an S3-compatible server that backups are tested with (again when constraints-s3.txt changed)

$(S3): constraints-s3.txt scripts/extra_venv.sh | $(READY)
	@scripts/extra_venv.sh s3

run: $(READY) ## Train the default preset on Pong for a short budget (STEPS, SEED, RUN_DIR, ARGS)
	$(BIN)/sbrl train --preset small-batch --run-dir $(RUN_DIR) run.env_steps=$(STEPS) run.seed=$(SEED) \
		evaluator.interval_env_steps=20000 evaluator.episodes=5 $(ARGS)

test: $(READY) $(ORACLES) $(S3) ## Run the tests (ARGS go to pytest)
	@scripts/prometheus.sh
	$(BIN)/python -m pytest -q --durations=10 -m 'not slow' $(WORKERS) $(ARGS)

test-slow: $(READY) ## Run the tests that take minutes (ARGS go to pytest)
	$(BIN)/python -m pytest -q --durations=10 -m slow $(ARGS)

check: $(READY) check-protos ## Lint, check formatting, types, import rules and that the generated code is fresh
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

check-protos: $(READY)
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(call GENERATE,$$fresh) \
		&& diff --recursive --brief --exclude=__init__.py --exclude=__pycache__ "$$fresh/sbrl/v1" sbrl/v1 \
		|| { echo "sbrl/v1 is not what protos/ generates: run 'make protos' and commit the result" >&2; exit 1; }

format: $(READY) ## Format the code and fix what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: generate
generate: $(READY) protos metrics-docs dashboards tree-docs ## Write all that is generated from the code: run it after any change
	$(BIN)/python -m scripts.chart_values

metrics-docs: $(READY) ## Write docs/metrics.md from the definitions in sbrl/telemetry/metrics.py
	$(BIN)/python -m scripts.metrics_docs

tree-docs: $(READY) ## Write docs/tree.md from the first sentences of the files themselves
	$(BIN)/python -m scripts.tree_docs

dashboards: $(READY) ## Write deploy/dashboards/ from scripts/dashboards.py
	$(BIN)/python -m scripts.dashboards

faults: $(READY) ## Inject faults into a run that Prometheus watches, half an hour; writes the runbook's table (ARGS go to the script)
	$(BIN)/python -m scripts.faults --document $(ARGS)

quiet: $(READY) ## Train for an hour under a real Prometheus, list the alerts that fired, none should (ARGS go to the script)
	$(BIN)/python -m scripts.quiet --document $(ARGS)

protos: $(READY) ## Generate sbrl/v1 from protos/
	rm -f sbrl/v1/*_pb2.py sbrl/v1/*_pb2.pyi sbrl/v1/*_pb2_grpc.py
	$(call GENERATE,.)

.PHONY: bench bench-peers bench-learner bench-gpu
bench: $(READY) ## Measure learner, replay memory, actor and a whole run beside their limits, six minutes (ARGS go to `sbrl bench`)
	$(BIN)/sbrl bench $(ARGS)

$(PEERS): constraints-peers.txt scripts/extra_venv.sh | $(READY)
	@scripts/extra_venv.sh peers

bench-peers: $(READY) $(PEERS) ## The same beside other libraries, which are installed into .venv-peers (ARGS likewise)
	$(BIN)/sbrl bench --peers $(ARGS)

bench-learner: $(READY) ## Measure the learner's updates (ARGS go to the benchmark)
	$(BIN)/python -m bench.learner $(ARGS)

bench-gpu: $(READY) ## On a machine with CUDA: hold graphs to eager updates, then measure eager, graph and compiled (ARGS likewise)
	$(BIN)/python -m sbrl.networks.devices cuda
	$(BIN)/python -m pytest -q tests/gpu
	$(BIN)/python -m bench.learner --device cuda --agents qr-dqn,rainbow,iqn,bbf --compile default --turns 100 $(ARGS)

bench-learning: $(READY) ## Train every agent on a small task, three quarters of an hour; fails below a threshold (ARGS go to the benchmark)
	$(BIN)/python -m bench.learning --jobs 2 $(ARGS)

bench-overhead: $(READY) ## Measure what metrics and diagnostics cost, five minutes; fails above 2 % (ARGS go to the benchmark)
	$(BIN)/python -m bench.overhead $(ARGS)

bench-segments: $(READY) ## Measure segments through a shard, half a minute; fails where a fill is slow (ARGS go to the benchmark)
	$(BIN)/python -m bench.segments $(ARGS)

bench-shard: $(READY) ## Measure a shard's memory over 20 checkpoints, six minutes; fails where it grows (ARGS go to the benchmark)
	$(BIN)/python -m bench.shard_memory $(ARGS)

bench-sampler: $(READY) ## Measure batches from a shard and what they leave in memory, half a minute (ARGS go to the benchmark)
	$(BIN)/python -m bench.sampler $(ARGS)

bench-traffic: $(READY) ## Measure what the learner reads of the shards, cached and remote, ten minutes (ARGS go to the benchmark)
	$(BIN)/python -m bench.traffic $(ARGS)

bench-whole-learner: $(READY) ## Measure the learner in a whole run beside the same update on resident data, three minutes (ARGS likewise)
	$(BIN)/python -m bench.whole_learner $(ARGS)

bench-actor-costs: $(READY) ## Measure what a step of an actor costs, by environment, policy and writing, a minute (ARGS likewise)
	$(BIN)/python -m bench.actor_costs $(ARGS)

bench-memory: $(READY) ## Measure the learner's replay memory, half a minute (ARGS go to the benchmark)
	$(BIN)/python -m bench.memory $(ARGS)

.PHONY: chaos chaos-power ratio-grid fuzz soak
chaos: $(READY) ## Train under kills, hangs, cuts and slow links, 45 minutes, and check what is promised (ARGS go to the program)
	$(BIN)/python -m tests.chaos $(ARGS)

chaos-power: $(READY) ## Measure the chaos judge on an undisturbed run: false alarms and power, 20 minutes (ARGS go to the program)
	$(BIN)/python -m tests.chaos.undisturbed $(ARGS)

ratio-grid: $(READY) ## Hold ratio and accounting with 1 to 16 shards x 1 to 16 actors, 15 minutes (ARGS go to the program)
	$(BIN)/python -m tests.chaos.grid $(ARGS)

fuzz: $(READY) ## Feed 10,000 wrong inputs to every reader and service (ARGS go to the program)
	$(BIN)/python -m tests.fuzz $(ARGS)

soak: $(READY) ## Sample every role's memory over hours and see whether it grows (ARGS='--hours 2' and so on)
	$(BIN)/python -m bench.soak $(ARGS)

.PHONY: bare
bare: ## Set up and test on a bare Debian 12 made by debootstrap, as root, 20 minutes (ARGS go to the script)
	scripts/bare_machine.sh $(ARGS)

.PHONY: docs
docs: .venv-docs/.complete ## Build the documentation with the reference of all packages as a site, in build/site
	.venv-docs/bin/python -m scripts.docs_site

.venv-docs/.complete: constraints-docs.txt
	rm -rf .venv-docs
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check --requirement constraints-docs.txt
	touch $@

.PHONY: wheel
wheel: $(READY) ## Build the wheel, install it in a fresh environment without constraints, and train with it, a few minutes
	PYTHON='$(PYTHON)' scripts/wheel.sh

.PHONY: chart image sbom e2e
chart: $(READY) ## Check the Helm chart and its overlays (ARGS go to pytest)
	scripts/tools.sh
	.venv/tools/bin/helm lint --strict deploy
	$(BIN)/python -m pytest -q tests/chart $(ARGS)

image: ## Build both container images and try them (CONTAINER names the tool, IMAGE_ARGS go to its build)
	scripts/image.sh

image-wheels: $(READY) ## Write image-wheels.txt, the wheels of the images by hash (after constraints.txt changed)
	$(BIN)/python scripts/image_wheels.py

sbom: $(READY) ## Write sbom/, the packages of .venv as CycloneDX, or of images (ARGS='sbrl:0.1.0 sbrl-learner:0.1.0')
	scripts/sbom.sh $(ARGS)

e2e: $(READY) image ## Run the chart's pods with podman, as root: they train, scale, fail and recover (ARGS go to it)
	scripts/tools.sh
	$(BIN)/python -m tests.e2e $(ARGS)

bench-heartbeats: $(READY) ## Measure what a large fleet's heartbeats cost the coordinator (ARGS go to the benchmark)
	$(BIN)/python -m bench.heartbeats $(ARGS)

clean: ## Remove the environments, caches and build leftovers; runs/ is kept
	rm -rf .venv .venv-oracles .venv-peers .venv-docs .venv-s3 build dist sbom *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
