"""The benchmark of a training step: what it counts, what it compares, and how it ends."""

import dataclasses
import multiprocessing
import os
import re
import select
import signal

import jax
import pytest
from commands import ROOT, refuse

from benchmarks import step_processes, train_step
from benchmarks.step_processes import TORCH, Competitor, Variant, all_ready, variants
from benchmarks.trainings import LAYOUTS, METHODS, Ours, Torch, Turn
from flexmdm_jax.config import read_config
from flexmdm_jax.errors import UserError

CASES = [(layout, method) for layout in LAYOUTS for method in layout.methods]
EVERY_LAYOUT = pytest.mark.parametrize(
    ("layout", "method"), CASES, ids=[f"{layout.name}-{method}" for layout, method in CASES]
)


@pytest.fixture
def config(tiny_config):
    tiny_config["model"] |= {"num_layers": 1, "dropout_rate": 0.0}
    return read_config(tiny_config)


def _method(config, method):
    return dataclasses.replace(config, method=method)


def _check(turn, steps, dataset):
    """Asserts what holds of every training: all it trains on counts, and no more is needed."""
    assert turn.steps == steps
    assert turn.seconds > 0
    assert 0 < turn.needed <= turn.executed
    return turn.sequences * dataset.mean_length


@EVERY_LAYOUT
def test_a_turn_counts_every_sequence_and_no_first_step(config, tiny_dataset, layout, method):
    """Tokens of x₁ are known in another way too: our step's metrics have them."""
    training = Ours(layout.config(_method(config, method)), tiny_dataset)
    steps = max(16, layout.steps)
    tokens, run = [], training._run

    def counted(batch):
        metrics = run(batch)
        tokens.append((training._knows(batch), float(metrics["num_tokens"])))
        return metrics

    training._run = counted
    turn = training.turn(steps)
    expected = _check(turn, steps, tiny_dataset)
    assert sum(known for known, _ in tokens) == steps
    assert expected == pytest.approx(sum(n for known, n in tokens if known), rel=0.15)
    compiling, met = training.compile_seconds, len(tokens)
    assert compiling > 0
    training.turn(1)
    is_new = any(not known for known, _ in tokens[met:])
    assert (training.compile_seconds > compiling) == is_new


def test_padded_rows_execute_all_their_slots(config, tiny_dataset):
    """All slots by all pairs, and of a head as small as this all slots at once."""
    training = Ours(LAYOUTS[0].config(config), tiny_dataset)
    turn = training.turn(2)
    rows, length, model = config.training.batch_size, config.data.max_length, training._setup.model
    bodies = 2 * model.flops(rows * length, rows * length**2, 0)
    heads = 2 * model.flops(0, 0, rows * length)
    assert turn.executed == bodies + heads
    assert turn.slots == 2 * rows * length


@pytest.mark.usefixtures("unchecked")
def test_the_memory_of_a_program_is_what_it_takes_at_least(config, tiny_dataset):
    """The state, and temporaries beside it; nothing is compiled again to ask."""
    training = Ours(LAYOUTS[0].config(config), tiny_dataset)
    training.turn(1)
    state = sum(x.nbytes for x in jax.tree.leaves(training._state)) / 1e6
    assert state < training.predicted_megabytes() < 100 * state


def test_buckets_execute_less_than_padding(config, tiny_dataset):
    padded, bucketed = (
        Ours(layout.config(config), tiny_dataset).turn(16)
        for layout in LAYOUTS
        if layout.name in ("padded", "bucketed")
    )
    assert bucketed.executed < padded.executed


@pytest.mark.parametrize("method", METHODS)
def test_the_baseline_is_counted_alike(config, tiny_dataset, method):
    config = _method(config, method)
    training = Torch(config, tiny_dataset, compiled=False, device="cpu")
    turn = training.turn(16)
    _check(turn, 16, tiny_dataset)
    assert turn.sequences == 16 * config.training.batch_size
    assert turn.slots == turn.sequences * config.data.max_length
    ours = Ours(LAYOUTS[0].config(config), tiny_dataset).turn(16)
    # The same law of x_t; 128 rows of it.
    assert turn.needed == pytest.approx(ours.needed, rel=0.2)
    assert turn.executed >= ours.executed


def _turns(*rates):
    return [
        Turn(steps=1, seconds=1 / x, sequences=1, slots=8, needed=1.0, executed=2.0) for x in rates
    ]


def test_ratios_pair_turns_of_a_repetition():
    """A machine that is half as fast for a while changes no ratio."""
    ours, theirs = _turns(6, 3, 6), _turns(2, 1, 2)
    assert train_step.ratios(ours, theirs) == pytest.approx([3, 3, 3])


def test_the_better_baseline_counts_and_ours_never_does():
    turns = {
        Variant("mdm", "padded"): _turns(9, 9, 9),
        **{Variant("mdm", name): _turns(1, 5 + i, 5 + i) for i, name in enumerate(TORCH, 1)},
    }
    assert train_step.best_baseline(turns) == Variant("mdm", list(TORCH)[-1])
    assert train_step.best_baseline({Variant("mdm", "padded"): _turns(1)}) is None


@pytest.mark.parametrize("baseline", [_turns(1, 2, 4), []])
def test_a_line_has_a_cell_for_each_column(tiny_dataset, baseline):
    class Done:
        variant = Variant("mdm", "padded")
        costs = staticmethod(lambda: (123.4, 5.6))

    cells = (
        train_step.line(Done(), _turns(2, 2, 2), baseline, tiny_dataset).strip("| ").split(" | ")
    )
    assert len(cells) == len(train_step.COLUMNS)
    named = dict(zip(train_step.COLUMNS, cells, strict=True))
    assert named["sequences/s"] == "2.0"
    assert named["useful tokens/s"] == f"{2 * tiny_dataset.mean_length:,.0f}"
    assert named["executed / needed FLOPs"] == "2.00"
    assert named["× PyTorch (range)"] == ("1.00 (0.50–2.00)" if baseline else "–")


def test_every_method_has_both_baselines_and_all_layouts_that_know_it():
    for method in METHODS:
        names = [variant.name for variant in variants(method)]
        assert names[-2:] == list(TORCH)
        assert set(names) == {*TORCH, *(x.name for x in LAYOUTS if method in x.methods)}


def test_processes_take_turns_and_a_baseline_that_fails_is_named(config, tiny_dataset):
    del tiny_dataset
    wanted = [Variant("flexmdm", "padded"), Variant("flexmdm", "PyTorch")]
    with all_ready(wanted, config, "cpu", 2) as (ready, failures):
        turns = train_step.interleaved(ready, 2)
        assert [len(of_variant) for of_variant in turns.values()] == [2, 2]
        assert all(turn.steps == 2 for of_variant in turns.values() for turn in of_variant)
        for competitor in ready:
            megabytes, seconds = competitor.costs()
            assert megabytes > 0
            assert seconds > 0
        ready[0]._process.submit(signal.raise_signal, signal.SIGKILL)
        with pytest.raises(UserError, match="flexmdm, padded: its process was killed"):
            ready[0].turn()
    assert not failures
    with pytest.raises(UserError, match="--device=gpu: JAX finds no GPU here"):
        Competitor(wanted[0], config, "gpu", 2)
    with all_ready(wanted[1:], config, "gpu", 2) as (ready, failures):
        assert not ready
    assert failures == ["flexmdm, PyTorch: PyTorch finds no GPU here; its CUDA build is needed"]


def _start_child(pipe):
    child = multiprocessing.get_context("fork").Process(target=step_processes.end_with_parent)
    child.start()
    pipe.send(child.pid)
    signal.pause()


def test_a_process_ends_with_a_parent_that_is_killed():
    ours, theirs = multiprocessing.Pipe()
    parent = multiprocessing.get_context("spawn").Process(target=_start_child, args=(theirs,))
    parent.start()
    child = os.pidfd_open(ours.recv())
    poll = select.poll()
    poll.register(child, select.POLLIN)
    assert not poll.poll(0)
    parent.kill()
    # It is readable once the process has ended.
    assert poll.poll(60_000)
    parent.join()
    os.close(child)


def test_processes_keep_memory_as_the_makefile_says():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    [settings] = re.findall(r"^KEEP_MEMORY := (.*)$", makefile, re.M)
    expected = [f"{name}={value}" for name, value in step_processes.KEEP_MEMORY.items()]
    assert settings.split() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--size must be given"),
        (["--size=huge"], "--size=huge: value should be one of <demo_text"),
        (["--size=demo_text", "--device=abacus"], "--device=abacus: value should be one of"),
        (["--size=demo_text", "--repetitions=0"], "--repetitions=0: must be at least 1"),
        (["--size=demo_text", "--data=nowhere"], "no prepared dataset in nowhere"),
        (
            ["--size=demo_text"],
            "no prepared dataset in data/demo_text; make it with: make data/demo_text",
        ),
        (["--size=small"], "data/owt_excerpts_256; make it with: python -m flexmdm_jax.prepare"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path, arguments, message):
    refuse(message, "benchmarks.train_step", *arguments, cwd=tmp_path)


def test_every_size_is_an_experiment(tmp_path):
    for size in train_step.SIZES.values():
        for layout in LAYOUTS:
            for method in layout.methods:
                config = layout.config(size.config(method, "cpu", str(tmp_path)))
                assert config.method == method
                assert config.data.path == str(tmp_path)
        assert size.config("mdm", "gpu", "x").model.compute_dtype == "bfloat16"
