# Two commands to begin with: `make run`, `make test`. Everything they need they install first.

PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help run install stack stack-stop test coverage lint bench fuzz

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: ## start everything in one process, with a PostgreSQL of its own; CLEAN=1 deletes its data first
	@sh stack/install.sh --python
	@exec .venv/bin/rowbell serve --embedded $(if $(CLEAN),--clean)

install: ## install what is missing: Debian packages, .venv, Kafka and Debezium
	@sh stack/install.sh

stack: install ## start pipeline mode on this machine, and wait until it answers
	@$(PYTHON) -m stack start

stack-stop: ## stop it
	@$(PYTHON) -m stack stop

test: ## install everything and run all tests, on real servers
	@sh stack/install.sh --tests
	@$(PYTHON) -m pytest -n 2 --no-loadscope-reorder

coverage: ## run all tests, and say which branches of the code they take
	@sh stack/install.sh --tests
	@$(PYTHON) -m pytest -n 2 --no-loadscope-reorder --cov --cov-report=term:skip-covered

lint: ## check style and types
	@sh stack/install.sh --python
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

bench: install ## measure, and say what with
	@$(PYTHON) -m benchmarks

fuzz: install ## attack two gateways for an hour with what hostile clients send; MINUTES=5 is shorter
	@$(PYTHON) -m tests.fuzz --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))
