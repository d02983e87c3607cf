# Everything is run through these targets: `make demo`, `make test`, `make check`.
PYTHON ?= python3
VENV := .venv
RUN := JAX_PLATFORMS=$(or $(JAX_PLATFORMS),cpu) $(VENV)/bin/python

.PHONY: install install-dev test check format bench-attention clean

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

test: install-dev
	$(RUN) -m pytest -n 2 tests

check: install-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: install-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Needs no TPU: the compiler's schedules stand in for one.
bench-attention: install-dev
	$(RUN) -m benchmarks.attention_tpu
	$(RUN) -m benchmarks.model_attention

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
