# Two commands do everything: `make quickstart` and `make test`. Both make .venv first (see tools/install.py).
PY := .venv/bin/python

.PHONY: help quickstart test install compiled lint docs clean
help:
	@echo "make quickstart   set up, then train, test and draw a small detector on the embedded data set (about 10 minutes)"
	@echo "make test         set up, then run all tests (about 10 minutes on 2 cores)"
	@echo "make install      set up only (about 2 minutes, no compiler)"
	@echo "make compiled     build mmcv from source in .venv-compiled, as reference or for its kernels (needs g++)"
	@echo "make lint         ruff"
	@echo "make docs         regenerate the method pages under docs/"
	@echo "Settings: PYTHON=python3.11   TORCH=torch==2.13.0"

install:
	@$${PYTHON:-python3} tools/install.py

quickstart: install
	@$(PY) -m mmpapers.cli.quickstart

test:
	@$${PYTHON:-python3} tools/install.py --tests
	@$(PY) -m ruff check .
	@$(PY) -m pytest -n 2

compiled:
	@$${PYTHON:-python3} tools/install.py --compiled

lint:
	@$(PY) -m ruff check .

docs:
	@$(PY) -m mmpapers.cli.docs

clean:
	rm -rf .venv .venv-compiled build dist *.egg-info
