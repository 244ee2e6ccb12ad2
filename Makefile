.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
UV := VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv
NAME ?= dev
NODES ?= 2
FAKE_NODES ?= 0
CRD_FILES := crds charts/lepton-operator/files/crds --reference docs/reference.md
ON_BASE = $(if $(BASE),--base $(BASE))

# A cluster of one's own is used only when both are given on make's command line: a KUBECONFIG that
# happens to be in the environment is never touched.
ifeq ($(origin KUBECONFIG),command line)
export LEPTON_KUBECONFIG := $(KUBECONFIG)
endif
ifeq ($(origin CONTEXT),command line)
export LEPTON_CONTEXT := $(CONTEXT)
endif
ifeq ($(origin REGISTRY),command line)
export LEPTON_REGISTRY := $(REGISTRY)
endif

.PHONY: help
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 20

##@ The two commands

.PHONY: demo test
demo: venv  ## from data to a prediction on a real cluster; leaves the cluster up
	$(RUN) -m e2e.demo --name $(NAME)

test: venv  ## everything that CI runs
	$(RUN) -m tests.suites test

##@ Development

.PHONY: test-long lint fmt verify-crds crds lock venv
test-long: venv  ## every kill point, every seed, every fault
	$(RUN) -m tests.suites test-long

lint: venv  ## ruff, mypy, import-linter, generated files
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(MAKE) --no-print-directory verify-crds

fmt: venv  ## format the code
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix

crds: venv  ## write the CRDs and their reference page from the pydantic models
	$(RUN) -m lepton_operator crds $(CRD_FILES)

verify-crds: venv
	$(RUN) -m lepton_operator crds --check $(CRD_FILES)

lock: venv  ## resolve the dependencies anew, with hashes
	for extra in operator agent client dev; do $(LOCK) --extra $$extra -o locks/$$extra.txt; done
	for extra in torch sdk; do $(LOCK) --extra $$extra --no-emit-package triton -o locks/$$extra.txt; done

# The package `triton` is OpenAI's compiler, for GPUs only: 0.7 GB that a CPU does not need.
LOCK = $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	--no-annotate --python-version 3.11 --no-emit-package lepton-operator pyproject.toml

venv: $(VENV)/.ready  ## the project's virtual environment, from locks/dev.txt

$(VENV)/.ready: locks/dev.txt
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet "$$(grep -o '^uv==[0-9.]*' locks/dev.txt)"
	@$(UV) pip sync --quiet locks/dev.txt
	@$(UV) pip install --quiet --no-deps --editable .
	@touch $@

##@ The embedded cluster

.PHONY: cluster-up cluster-down cluster-status install
cluster-up: venv  ## a real Kubernetes on this machine: NAME=dev NODES=2 FAKE_NODES=0
	$(RUN) -m e2e.cluster up --name $(NAME) --nodes $(NODES) --fake-nodes $(FAKE_NODES)

cluster-down: venv  ## stop it: nothing is left
	$(RUN) -m e2e.cluster down --name $(NAME)

cluster-status: venv  ## what runs, and how to look at it
	$(RUN) -m e2e.cluster status --name $(NAME)

install: venv  ## build the images and install the chart into the cluster
	$(RUN) -m e2e.installation --name $(NAME)

##@ Images

.PHONY: images images-push
images: venv  ## build every image whose inputs changed; on another base: BASE=python:3.11-slim
	$(RUN) -m images build $(ON_BASE)

images-push: venv  ## push them, and write images.json for the chart: REGISTRY=registry/path
	@test -n "$(REGISTRY)" || { echo "Say where to: make images-push REGISTRY=registry/path"; exit 2; }
	$(RUN) -m images push --registry $(REGISTRY) --values images.json $(ON_BASE) \
		operator agent trainer triton door store prometheus

##@ Benchmarks (a table, and a JSON object as the last line)

.PHONY: bench-apply bench-burst bench-rollout bench-recovery bench-door-scale \
	bench-door-cost bench-door-balance bench-door-failover bench-autoscaler bench-autoscaling \
	bench-autoscaling-suite bench-autoscaling-real
bench-apply: venv  ## apply to first pod, writes at rest, memory
	$(RUN) -m bench.apply

bench-burst: venv  ## KIND=trainingjob|inferenceservice COUNT=1000 on fake nodes; or PODS=1000 of one job
	$(RUN) -m bench.burst --kind $(or $(KIND),trainingjob) --count $(or $(COUNT),1000) $(if $(PODS),--pods $(PODS))

bench-rollout: venv  ## requests that fail while a service changes: EVENTS=new_version,pod_killed COUNT=1
	$(RUN) -m bench.rollout --count $(or $(COUNT),1) $(if $(EVENTS),--events $(EVENTS))

bench-recovery: venv  ## what each fault costs a training: COUNT=3 FAULTS=pod,node
	$(RUN) -m bench.recovery --count $(or $(COUNT),3) $(if $(FAULTS),--faults $(FAULTS))

bench-door-scale: venv  ## one door of COUNT=1000 services: its memory, a change, a scrape
	$(RUN) -m bench.door_scale --count $(or $(COUNT),1000)

bench-door-cost: venv  ## what the door adds to a request, in time and CPU, beside Triton itself
	$(RUN) -m bench.door_cost

bench-door-balance: venv  ## how long requests wait, beside kube-proxy: CONNECTIONS=100
	$(RUN) -m bench.door_balance --connections $(or $(CONNECTIONS),100)

bench-door-failover: venv  ## COUNT=1000 services while the leader is killed, and restarted twice
	$(RUN) -m bench.door_failover --count $(or $(COUNT),1000)

bench-autoscaler: venv  ## what decisions about COUNT=1000 services cost, each 2 s
	$(RUN) -m bench.autoscaler --count $(or $(COUNT),1000)

bench-autoscaling: venv  ## every law over a trace: TRACE=file.csv STARTUP=60 TARGET_MS=500 SERVICE_MS=100 PERCENTILE=95 SEED=0 BALANCING=least-loaded|random
	$(RUN) -m bench.autoscaling $(if $(TRACE),--trace $(TRACE)) --startup $(or $(STARTUP),60) \
		--target-ms $(or $(TARGET_MS),500) --service-ms $(or $(SERVICE_MS),100) \
		--percentile $(or $(PERCENTILE),95) --seed $(or $(SEED),0) --balancing $(or $(BALANCING),least-loaded)

bench-autoscaling-suite: venv  ## every trace, start-up time and seed: the bars, and docs/autoscaling-benchmark.md
	$(RUN) -m bench.autoscaling.suite --seeds $(or $(SEEDS),3)

bench-autoscaling-real: venv  ## on real pods, beside the simulator's prediction: DURATION=600
	$(RUN) -m bench.autoscaling_real --duration $(or $(DURATION),600)
