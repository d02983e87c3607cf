"""The global order: every example once an epoch, whoever reads it and however it is batched."""

import collections
import itertools

import numpy as np
import pytest
import tiny
from absl import flags

from flexmdm_jax.data.batches.noise import Noise
from flexmdm_jax.data.batches.order import Order
from flexmdm_jax.data.batches.pipeline import train_batches, validation_batches
from flexmdm_jax.data.batches.rows import ended
from flexmdm_jax.data.storage.mixtures import mix_datasets, open_data
from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, read_split, write_dataset
from flexmdm_jax.data.storage.shards import lengths_path
from flexmdm_jax.data.tokenizers import ByteTokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.process import Process

BATCH, COUNT, LENGTH = 8, 256, 32
BUCKETS = (8, 16, 24)


def _numbered(directory, first, count=COUNT):
    """A dataset whose sequences are numbers and lengths: [number // 256, number % 256, 0, …]."""
    source = np.random.default_rng(first)
    sequences = []
    for number in range(first, first + count):
        tail = [0] * int(source.integers(0, LENGTH - 3))
        # The number is fixed, so that x_t has it too.
        fixed = [True, True, *(False for _ in tail)]
        sequences.append((TRAIN, [number // 256, number % 256, *tail], fixed))
    sequences += [
        (VALIDATION, [number // 256, number % 256]) for number in range(first, first + 40)
    ]
    return write_dataset(directory, sequences, ByteTokenizer({}), max_length=LENGTH, origin={})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return _numbered(tmp_path_factory.mktemp("order") / "d", 0)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return _numbered(tmp_path_factory.mktemp("order") / "other", 1000, 100)


def _batches(dataset, buckets=BUCKETS, **options):
    options = {"batch_size": BATCH, "seed": 5} | options
    process = options.pop("process", Process(dataset.vocabulary))
    return train_batches(dataset, process, length=LENGTH, buckets=buckets, **options)


def _lengths(batch):
    """The slots of x₁ in each row."""
    return ((batch["segment_ids"] > 0) + batch["gaps"]).sum(1)


def _numbers(tokens):
    return (tokens[:, 0] * 256 + tokens[:, 1]).tolist()


@pytest.mark.parametrize("buckets", [(), BUCKETS])
def test_no_example_is_lost_or_repeated_in_an_epoch(dataset, buckets):
    epochs = []
    batches = _batches(dataset, buckets)
    for _ in range(2):
        taken = [next(batches) for _ in range(COUNT // BATCH)]
        numbers = [number for batch in taken for number in _numbers(batch["tokens"])]
        assert sorted(numbers) == list(range(COUNT))
        epochs.append(numbers)
    assert epochs[0] != epochs[1]


def test_rows_are_as_long_as_their_bucket_wants(dataset):
    padded = collections.Counter()
    for buckets in ((), BUCKETS):
        for batch in itertools.islice(_batches(dataset, buckets), COUNT // BATCH):
            lengths = _lengths(batch)
            slots = batch["tokens"].shape[1]
            assert slots == min(b for b in (*(buckets or ()), LENGTH) if b >= lengths.max())
            padded[buckets] += slots * BATCH - lengths.sum()
    assert padded[BUCKETS] < 0.5 * padded[()]


def test_rows_are_numbered_as_they_are_trained_on(dataset):
    """Time and noise depend on the number, which lengths must not decide."""
    for number, batch in enumerate(itertools.islice(_batches(dataset), 20)):
        assert batch["index"][:, 0].tolist() == list(range(number * BATCH, (number + 1) * BATCH))


def test_a_rows_place_in_its_batch_says_nothing_about_its_length(dataset):
    """Else lengths would be trained at times of their own: places decide strata of times."""
    places = np.arange(BATCH) - (BATCH - 1) / 2
    product, variance = 0.0, 0.0
    for batch in itertools.islice(_batches(dataset), 20 * COUNT // BATCH):
        lengths = _lengths(batch)
        deviations = lengths - lengths.mean()
        product += places @ deviations
        # Of the product under a random permutation.
        variance += (places @ places) * (deviations @ deviations) / (BATCH - 1)
    assert variance > 0
    assert abs(product) < 4 * np.sqrt(variance)


@pytest.mark.parametrize("share", [0.618, 0.764, 0.6, 0.5])
def test_sets_of_a_mixture_see_all_times(dataset, other, share):
    """Times go round in steps of the golden ratio; sets must not go round with them."""
    records = Order(mix_datasets([dataset, other], [share, 1 - share]), seed=5).records(
        np.arange(2048)
    )
    for start in (0, 1024):
        stretch = slice(start, start + 1024)
        t, _ = Noise(seed=5).times(np.arange(2048))
        for mine in (records[stretch] < COUNT, records[stretch] >= COUNT):
            # Three and a half standard deviations of independent times.
            assert abs(t[stretch][mine].mean() - 0.5) < 3.5 * 12**-0.5 / mine.sum() ** 0.5


def _joined(shares):
    """The rows of one step over all processes, by their numbers, and their common length."""
    index = np.concatenate([share["index"][:, 0] for share in shares])
    assert len({share["tokens"].shape[1] for share in shares}) == 1, "one bucket for all processes"
    tokens = np.concatenate([share["tokens"] for share in shares])[np.argsort(index)]
    return sorted(index.tolist()), tokens.tolist()


@pytest.mark.parametrize("buckets", [(), BUCKETS])
def test_one_then_two_then_one_process_go_on_in_the_same_order(dataset, buckets):
    straight = [_joined([batch]) for batch in itertools.islice(_batches(dataset, buckets), 21)]
    seen, state = [], None
    for processes in (1, 2, 1):
        streams = [
            _batches(dataset, buckets, process_index=i, process_count=processes)
            for i in range(processes)
        ]
        for stream in streams:
            if state is not None:
                stream.set_state(state)
        seen += [_joined([next(stream) for stream in streams]) for _ in range(7)]
        states = [stream.get_state() for stream in streams]
        assert states == states[:1] * processes
        state = states[0]
    assert seen == straight


def test_worker_processes_change_nothing(dataset):
    flags.FLAGS.mark_as_parsed()  # Grain's workers look at flags of their own.
    alone, helped = _batches(dataset), _batches(dataset, workers=2)
    helped.set_state({"examples": 3 * BATCH})
    expected = list(itertools.islice(alone, 9))[3:]
    for a, b in zip(expected, itertools.islice(helped, 6), strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert helped.get_state() == alone.get_state()


def test_a_mixture_keeps_its_weights_everywhere(dataset, other):
    mixed = mix_datasets([dataset, other], [0.7, 0.3])
    order = Order(mixed, seed=5)
    records = order.records(np.arange(10_500))
    second = records >= COUNT
    for start in range(0, 10_500, 500):
        assert abs(second[start : start + 500].mean() - 0.3) <= 2 / 500
    for mine, size, first in ((records[~second], COUNT, 0), (records[second], 100, COUNT)):
        for epoch in range(3):
            drawn = mine[epoch * size : (epoch + 1) * size]
            assert sorted(drawn.tolist()) == list(range(first, first + size))
    some = np.array([10_499, 3, 7_345])
    assert order.records(some).tolist() == records[some].tolist(), "any part on its own"


def test_a_mixture_reads_all_its_sets(dataset, other):
    mixed = mix_datasets([dataset, other], [0.5, 0.5])
    batches = itertools.islice(_batches(mixed), 32)
    numbers = [number for batch in batches for number in _numbers(batch["tokens"])]
    assert abs(sum(number >= 1000 for number in numbers) - len(numbers) / 2) < 5
    assert mixed.num_sequences == {TRAIN: COUNT + 100, VALIDATION: 80}
    assert sum(mixed.lengths[TRAIN].values()) == COUNT + 100
    assert len(list(read_split(mixed, VALIDATION))) == 80
    means = [np.mean([len(x) - 1 for x in read_split(d, TRAIN)]) for d in (dataset, other)]
    np.testing.assert_allclose(mixed.mean_length, np.mean(means))
    (batch, _), *_ = validation_batches(
        mixed, length=LENGTH, batch_size=20, arrange=ended, limit=20
    )
    assert sum(number >= 1000 for number in _numbers(batch.tokens)) == 10


def test_mixtures_that_cannot_be(dataset, other, tmp_path):
    with pytest.raises(UserError, match="must be positive and sum to 1"):
        mix_datasets([dataset, other], [0.5, 0.6])
    with pytest.raises(UserError, match="must be positive and sum to 1"):
        mix_datasets([dataset, other], [1.5, -0.5])
    with pytest.raises(UserError, match="names proofpile, but the sets are owt"):
        open_data("", {"owt": str(dataset.directory)}, {"owt": 0.5, "proofpile": 0.5})
    tokenizer = ByteTokenizer({})
    tokenizer.kind = "another"
    sequences = [(TRAIN, [1]), (VALIDATION, [1])]
    third = write_dataset(tmp_path / "d", sequences, tokenizer, max_length=LENGTH, origin={})
    with pytest.raises(UserError, match="made with different tokenizers"):
        mix_datasets([dataset, third], [0.5, 0.5])


def test_buckets_are_not_for_rows_that_end_fills(dataset):
    with pytest.raises(UserError, match="MDM fills every row"):
        _batches(dataset, process=Process.mdm(dataset.vocabulary))


def test_a_damaged_shard_is_named(tmp_path):
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts())
    (shard,) = dataset.shards[TRAIN]
    data = shard.read_bytes()
    shard.write_bytes(data[:5_000] + bytes(2_000) + data[7_000:])
    process = Process(dataset.vocabulary)
    batches = train_batches(dataset, process, length=tiny.LENGTH, batch_size=64, seed=0)
    with pytest.raises(UserError, match=r"train-00000-of-00001\.array_record, record \d+: unread"):
        list(itertools.islice(batches, 4))
    shard.write_bytes(b"")
    with pytest.raises(UserError, match=r"train-00000-of-00001\.array_record: unreadable"):
        list(read_split(dataset, TRAIN))


def _bucketed(dataset):
    return _batches(dataset, buckets=(8,))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1, "is damaged: sequence 7 has not 1 slots"),
        (2**32 - 1, "is damaged: sequence 7 has not 4294967295 slots"),
        (0, "is damaged: sequence 7 has not 0 slots"),
        (None, r"has \d+ lengths, its shard \d+ sequences"),
    ],
)
def test_a_damaged_file_of_lengths_is_named(tmp_path, other, value, message):
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts())
    (shard,) = dataset.shards[TRAIN]
    path = lengths_path(shard)
    lengths = np.fromfile(path, "<u4")
    assert lengths[7] not in (0, 1)
    assert next(_bucketed(dataset))
    if value is None:
        lengths = lengths[:-1]
    else:
        lengths[7] = value
    lengths.tofile(path)
    for damaged in (dataset, mix_datasets([other, dataset], [0.5, 0.5])):
        with pytest.raises(UserError, match=rf"d/train-00000-of-00001\.lengths {message}"):
            _bucketed(damaged)


def test_lengths_that_only_the_metadata_says_are_noticed(tmp_path):
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts())
    dataset.lengths[TRAIN][3] += 1
    with pytest.raises(UserError, match=r"d: the lengths in dataset\.json are not those"):
        _bucketed(dataset)
