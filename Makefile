# make run    set up .venv and train the demo
# make test   set up .venv with the test extras, then lint, types and all tests
# make ui     the MLflow UI of this checkout's runs, on 127.0.0.1
.PHONY: run test ui clean
PYTHON ?= python3
BIN := .venv/bin
# Without a card that torch drives, its small CPU build: `make TORCH=` takes what the index has.
TORCH ?= $(shell test -e /dev/nvidiactl || test -e /dev/kfd || echo "-c constraints-cpu.txt")

run: .venv/installed
	$(BIN)/python run.py

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

ui: .venv/installed
	$(BIN)/python -m pipeline runs ui

.venv/installed: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH) -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet $(TORCH) -e '.[test]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
