"""x_t in rows: the same of the same example in any layout, and every example in turn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from absl import flags

from flexmdm_jax.data.batches.examples import Examples, lengths_tell
from flexmdm_jax.data.batches.noise import Noise
from flexmdm_jax.data.batches.order import LengthTable, Order
from flexmdm_jax.data.batches.packing import Bins
from flexmdm_jax.data.batches.pipeline import train_batches
from flexmdm_jax.data.storage.mixtures import mix_datasets
from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, write_dataset
from flexmdm_jax.data.tokenizers import ByteTokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.interpolant import corrupt
from flexmdm_jax.process import Process
from flexmdm_jax.schedules import Geometric, Polynomial, Sine
from flexmdm_jax.types import Batch

BINS = Bins(rows=4, length=48, segments=6)
PROCESSES = {
    "linear": Process,
    "early and late": lambda v: Process(v, Sine(), Polynomial(3.0)),
    "geometric": lambda v: Process(v, Geometric(), Geometric()),
}


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """Sequences some of whose tokens are fixed, which dataset.json counts."""
    rng = np.random.default_rng(0)
    sequences = [
        (split, rng.integers(0, 90, n := int(rng.integers(1, 30))), rng.random(n) < 0.3)
        for split in [TRAIN] * 150 + [VALIDATION] * 5
    ]
    folder = tmp_path_factory.mktemp("prompted") / "d"
    return write_dataset(folder, sequences, ByteTokenizer({}), max_length=32, origin={})


def batches_of(dataset, process=None, *, packed=BINS, **options):
    options = {"length": 32, "batch_size": 4, "seed": 7, "time_warp": 2.0} | options
    return train_batches(dataset, process or Process(dataset.vocabulary), packed=packed, **options)


def by_number(batches, count):
    """Returns {number of an example: all that a step is told of it}, of the first batches."""
    found = {}
    for batch in itertools.islice(batches, count):
        for row, column in zip(*np.nonzero(batch["weight"]), strict=True):
            slots = np.flatnonzero(batch["segment_ids"][row] == column + 1)
            assert (np.diff(slots) == 1).all(), "a sequence lies in one piece"
            number = int(batch["index"][row, column])
            assert number not in found
            found[number] = [
                *(batch[name][row, slots].tolist() for name in ("tokens", "targets", "gaps")),
                *(float(batch[name][row, column]) for name in ("t", "weight")),
            ]
    return found


@pytest.mark.parametrize("kind", PROCESSES)
def test_packed_and_padded_rows_show_the_same_x_t(tiny_dataset, kind):
    process = PROCESSES[kind](tiny_dataset.vocabulary)
    packed = by_number(batches_of(tiny_dataset, process), 10)
    padded = by_number(batches_of(tiny_dataset, process, packed=None), 1 + len(packed) // 4)
    assert len(packed) > 60
    assert sorted(packed) == list(range(len(packed)))
    assert all(padded[number] == example for number, example in packed.items())


def test_fixed_tokens_stay(prompted):
    """Their number is not in the lengths, so that records are read to know how long x_t is."""
    process = Process(prompted.vocabulary)
    assert prompted.num_given > 0
    assert not lengths_tell(prompted, process)
    examples = Examples(prompted, process, length=32, seed=7, time_warp=2.0)
    records = Order(prompted, 7).records(np.arange(60))
    clean = examples.sequences(records, np.arange(60))
    packed = by_number(batches_of(prompted), 10)
    for number in range(60):
        tokens, targets = packed[number][:2]
        kept = clean[number].tokens[clean[number].fixed].tolist()
        clean_tokens = [a for a, b in zip(tokens, targets, strict=True) if a == b]
        rest = iter(clean_tokens)
        assert all(token in rest for token in kept), "in their order"


def test_the_host_corrupts_as_devices_do(prompted):
    """The same uniform numbers through corrupt(), which draws them from keys."""
    process = PROCESSES["early and late"](prompted.vocabulary)
    examples = Examples(prompted, process, length=32, seed=7, time_warp=2.0)
    numbers = np.arange(12)
    records = Order(prompted, 7).records(numbers)
    host = examples.at_their_times(records, numbers)
    starts = np.cumsum(host.sizes) - host.sizes
    noise, t = Noise(7, 2.0), jnp.asarray(host.t)
    for number, sequence in enumerate(examples.sequences(records, numbers)):
        n = len(sequence.tokens)
        levels = noise.levels(numbers[number : number + 1], np.array([n]))
        clean = (sequence.tokens, np.ones(n, int), sequence.fixed)
        batch = Batch(*(jnp.asarray(x)[None] for x in clean), index=jnp.zeros(1, int))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.random, "uniform", lambda *_, x=levels: jnp.asarray(x))
            x = corrupt(
                jax.random.split(jax.random.key(0), 1), batch, t[number, None, None], process
            )
        size = int(x.segment_ids.sum())
        mine = slice(starts[number], starts[number] + host.sizes[number])
        assert size == host.sizes[number]
        for name in ("tokens", "targets", "gaps"):
            np.testing.assert_array_equal(getattr(x, name)[0, :size], getattr(host, name)[mine])


def test_lengths_tell_how_long_x_t_of_text_is(tiny_dataset):
    process = Process(tiny_dataset.vocabulary)
    assert tiny_dataset.num_given == 0
    assert lengths_tell(tiny_dataset, process)
    numbers, make = np.arange(50), {"length": 32, "seed": 1}
    known = Examples(tiny_dataset, process, lengths=LengthTable(tiny_dataset), **make)
    read = Examples(tiny_dataset, process, **make)
    expected = read.at_their_times(numbers, numbers).sizes
    np.testing.assert_array_equal(known.sizes(numbers, numbers), expected)
    np.testing.assert_array_equal(read.sizes(numbers, numbers), expected)


def test_what_was_not_counted_is_read(tiny_dataset, prompted):
    """Datasets of older versions do not say how many tokens are fixed; nor do mixtures of them."""
    mixed = mix_datasets([tiny_dataset, prompted], [0.5, 0.5])
    assert mixed.num_given == prompted.num_given
    del mixed.metadata["mixture"][0]["splits"][TRAIN]["given"]
    assert mixed.num_given is None
    assert not lengths_tell(mixed, Process(mixed.vocabulary))
    tiny_dataset.metadata["splits"][TRAIN]["given"] = 0


def test_the_mean_number_of_examples_is_that_of_a_run(tiny_dataset):
    batches = batches_of(tiny_dataset)
    counts = [np.count_nonzero(batch["weight"]) for batch in itertools.islice(batches, 64)]
    error = np.std(counts) / np.sqrt(len(counts) / 2)
    assert batches.expected == pytest.approx(np.mean(counts), abs=4 * error)
    assert batches_of(tiny_dataset, packed=None).expected == 4


def _joined(shares):
    found = {}
    for share in shares:
        found |= by_number(iter([share]), 1)
    return found


def test_one_then_two_then_one_process_pack_the_same(tiny_dataset):
    straight = [_joined([batch]) for batch in itertools.islice(batches_of(tiny_dataset), 9)]
    seen, state = [], None
    for processes in (1, 2, 1):
        streams = [
            batches_of(tiny_dataset, process_index=i, process_count=processes)
            for i in range(processes)
        ]
        for stream in streams:
            if state is not None:
                stream.set_state(state)
        seen += [_joined([next(stream) for stream in streams]) for _ in range(3)]
        states = [stream.get_state() for stream in streams]
        assert states == states[:1] * processes
        state = states[0]
    assert seen == straight


def test_a_stream_that_is_left_disturbs_no_other(tiny_dataset):
    """Its thread reads ahead, and plans, while the next one begins at the same place."""
    make = lambda: batches_of(tiny_dataset, packed=Bins(16, 64, 8), prefetch=16)  # noqa: E731
    expected = [batch["index"] for batch in itertools.islice(make(), 6)]
    for _ in range(10):
        batches = make()
        next(batches)
        batches.set_state({"examples": 0})
        for index in expected:
            np.testing.assert_array_equal(next(batches)["index"], index)


@pytest.mark.parametrize("bins", [Bins(2, 40, 1), Bins(300, 1000, 2), Bins(100, 200, 60)])
def test_large_steps_are_not_tried_many_times(tiny_dataset, monkeypatch, bins):
    """How many examples one takes is known from some thousands, whatever the rows."""
    looked_at = []
    sizes = Examples.sizes

    def counted(self, records, numbers):
        looked_at.append(len(numbers))
        return sizes(self, records, numbers)

    monkeypatch.setattr(Examples, "sizes", counted)
    batches = batches_of(tiny_dataset, packed=bins)
    expected = batches.expected
    assert sum(looked_at) < 10_000 + 3 * expected + 512
    counts = [np.count_nonzero(batch["weight"]) for batch in itertools.islice(batches, 3)]
    assert expected == pytest.approx(np.mean(counts), rel=0.2)


def test_worker_processes_pack_the_same(tiny_dataset):
    flags.FLAGS.mark_as_parsed()  # Grain's workers look at flags of their own.
    alone, helped = batches_of(tiny_dataset), batches_of(tiny_dataset, workers=2)
    for _ in range(2):
        next(alone)
    helped.set_state(alone.get_state())
    for a, b in zip(itertools.islice(alone, 5), helped, strict=False):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert helped.get_state()["examples"] >= alone.get_state()["examples"]


def test_packing_is_not_for_rows_that_end_fills(tiny_dataset):
    with pytest.raises(UserError, match=r"config\.data\.packing: MDM fills every row"):
        batches_of(tiny_dataset, Process.mdm(tiny_dataset.vocabulary))


def test_positions_of_older_checkpoints_count_batches(tiny_dataset):
    batches = batches_of(tiny_dataset, packed=None)
    batches.set_state({"batches": 5})
    assert batches.get_state() == {"examples": 20}


@pytest.mark.parametrize("damage", ["lengths in another order", "given tokens not counted"])
def test_what_is_said_of_sequences_and_is_wrong_spills_into_no_row(tmp_path, damage):
    """It decides where a packed sequence begins; one that is longer would cover the next."""
    rng = np.random.default_rng(0)
    sequences = [
        (TRAIN, rng.integers(0, 90, 2 + 29 * (i % 2)), np.arange(2 + 29 * (i % 2)) < 28 * (i % 2))
        for i in range(100)
    ]
    sequences += [(VALIDATION, [1])]
    if damage.startswith("lengths"):
        sequences = [(split, tokens) for split, tokens, *_ in sequences]
    dataset = write_dataset(tmp_path / "d", sequences, ByteTokenizer({}), max_length=32, origin={})
    if damage.startswith("lengths"):
        [lengths] = tmp_path.glob("d/train*.lengths")
        np.sort(np.fromfile(lengths, "<u4")).tofile(lengths)
    else:
        dataset.metadata["splits"][TRAIN]["given"] = 0
    batches = batches_of(dataset)
    with pytest.raises(UserError, match=r"/d: its \.lengths, or the tokens .* prepare the dataset"):
        list(itertools.islice(batches, 10))


def test_tiny_rows_are_full(tiny_dataset):
    for batch in itertools.islice(batches_of(tiny_dataset), 10):
        assert (batch["segment_ids"] > 0).mean() > 0.9
        assert batch["tokens"].shape == (BINS.rows, BINS.length)
        assert batch["index"].shape == (BINS.rows, BINS.segments)
    assert tiny.LENGTH <= 32
