# Start with `make run` and `make test`. Both first install everything they need.

PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help run install stack stack-stop test coverage lint bench fuzz

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: ## start everything in one process, with its own PostgreSQL; CLEAN=1 first deletes its data
	@sh stack/install.sh --python
	@exec .venv/bin/rowbell serve --embedded $(if $(CLEAN),--clean)

install: ## install what is missing: Debian packages, .venv, Kafka and Debezium
	@sh stack/install.sh

stack: install ## start pipeline mode on this machine, and wait until it answers
	@$(PYTHON) -m stack start

stack-stop: ## stop pipeline mode
	@$(PYTHON) -m stack stop

test: ## install everything and run all tests, on real servers
	@sh stack/install.sh --tests
	@$(PYTHON) -m pytest -n 2 --no-loadscope-reorder

coverage: ## run all tests, and report the branch coverage
	@sh stack/install.sh --tests
	@$(PYTHON) -m pytest -n 2 --no-loadscope-reorder --cov --cov-report=term:skip-covered

lint: ## check style and types
	@sh stack/install.sh --python
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

bench: install ## run the benchmarks, and report the machine
	@$(PYTHON) -m benchmarks

fuzz: install ## attack two gateways with hostile input for an hour; MINUTES=5 makes it shorter
	@$(PYTHON) -m tests.fuzz --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))
