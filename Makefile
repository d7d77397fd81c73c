# Two commands to begin with: `make stack`, `make test`. Everything they need they install first.

PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install stack stack-stop test lint bench

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: ## install what is missing: Debian packages, .venv, Kafka and Debezium
	@sh stack/install.sh

stack: install ## start pipeline mode on this machine, and wait until it answers
	@$(PYTHON) -m stack start

stack-stop: ## stop it
	@$(PYTHON) -m stack stop

test: ## install everything and run all tests, on real servers
	@sh stack/install.sh --tests
	@$(PYTHON) -m pytest

lint: install ## check style and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

bench: install ## measure, and say what with
	@$(PYTHON) -m benchmarks
