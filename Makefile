# Everything is run through these targets: `make demo`, `make test`, `make check`.
PYTHON ?= python3
VENV := .venv
RUN := JAX_PLATFORMS=$(or $(JAX_PLATFORMS),cpu) $(VENV)/bin/python

.PHONY: demo install install-dev test proofs faults check format bench-attention bench-aot clean

demo: install data/demo
	$(RUN) -m flexmdm_jax.train --config=configs/demo.py --workdir=runs/demo
	$(RUN) -m flexmdm_jax.train --config=configs/demo_mdm.py --workdir=runs/demo_mdm
	$(RUN) -m flexmdm_jax.sample --workdir=runs/demo --num=64 --steps=128 --print=8 \
		--out=runs/demo/samples.jsonl --overwrite
	$(RUN) -m flexmdm_jax.evaluate --workdir=runs/demo --workdir=runs/demo_mdm --steps=128
	@echo "pictures and metrics: runs/demo/lengths.png runs/demo/metrics.jsonl"

data/demo: | install
	$(RUN) -m flexmdm_jax.prepare --source=stdlib --tokenizer=sentencepiece:400 \
		--max_length=64 --validation_fraction=0.15 --out=$@

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

# Debian without python3-venv lacks ensurepip; its own pip can then put pip into the environment.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --clear --without-pip $(VENV)
	$@ -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $@ install --quiet pip

$(VENV)/.installed: $(VENV)/bin/python requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

test: install-dev
	$(RUN) -m pytest -n 2 tests

# The figures of docs/results.md on samplers and bounds, printed by the tests that check them.
proofs: install-dev
	$(RUN) -m pytest -q -rP tests/sampling/test_oracle_sampling.py tests/test_losses.py \
		-k "follow or exact_posterior_is_the_entropy" | grep -E "^(___|{|[0-9.]+ ±)"

# Two processes, killed at ten moments and told to stop at an eleventh.
faults: install-dev
	FLEXMDM_FAULTS=10 $(RUN) -m pytest -q -s tests/training/test_faults.py

check: install-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/shellcheck -x -P SCRIPTDIR launch/*.sh launch/*.sbatch

format: install-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Needs no TPU: the compiler's schedules stand in for one.
bench-attention: install-dev
	$(RUN) -m benchmarks.attention_tpu
	$(RUN) -m benchmarks.model_attention

# The largest batches of configs/owt.py by remat; hours of one core.
bench-aot: install-dev
	for slice in v5e-16 v5p-16; do for remat in none dots full; do \
		$(RUN) -m flexmdm_jax.aot --config=configs/owt.py --topology=$$slice --programs=train \
			--search --config.model.remat=$$remat || exit 1; \
	done; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
