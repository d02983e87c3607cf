"""Prepared datasets: complete or absent, and checked when opened."""

import itertools
import json

import numpy as np
import pytest
import tiny

from flexmdm_jax.data.storage.mixtures import mix_datasets
from flexmdm_jax.data.storage.records import (
    TRAIN,
    VALIDATION,
    decode_record,
    encode_record,
    open_dataset,
    read_sequences,
    read_split,
    split_of,
    write_dataset,
)
from flexmdm_jax.data.tokenizers import ByteTokenizer
from flexmdm_jax.errors import UserError


def test_every_sequence_is_stored_once_in_order(tiny_dataset):
    tokenizer = tiny_dataset.tokenizer()
    for split in (TRAIN, VALIDATION):
        expected = [text for text in tiny.texts() if split_of(text, 0, 0.2) == split]
        stored = list(read_split(tiny_dataset, split))
        assert [tokenizer.decode(tokens.tolist()) for tokens in stored] == expected
        assert all(tokens[-1] == tiny_dataset.vocabulary.end for tokens in stored)
        assert tiny_dataset.num_sequences[split] == len(expected)
        lengths, counts = np.unique([len(text) for text in expected], return_counts=True)
        assert tiny_dataset.lengths[split] == dict(zip(lengths, counts, strict=True))


def test_equal_texts_share_a_split_of_about_the_asked_size():
    texts = [f"text {number}" for number in range(4000)]
    held_out = [split_of(text, 7, 0.25) == VALIDATION for text in texts]
    assert held_out == [split_of(text, 7, 0.25) == VALIDATION for text in texts]
    # Four standard errors of a binomial share.
    assert abs(np.mean(held_out) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    assert held_out != [split_of(text, 8, 0.25) == VALIDATION for text in texts]


@pytest.mark.parametrize("fixed", [None, [True, False, True, False, True]])
def test_records_hold_any_token_id(fixed):
    tokens = [0, 255, 65_536, 126_463, 2**31 - 1]
    sequence = decode_record(encode_record(tokens, fixed))
    assert sequence.tokens.tolist() == tokens
    assert sequence.fixed.tolist() == (fixed or [False] * 5)


def test_a_task_marks_tokens_as_fixed_and_describes_itself(tmp_path):
    sequences = [(TRAIN, [1, 2, 3], [True, False, True]), (VALIDATION, [4], [False])]
    tokenizer, task = ByteTokenizer({}), {"kind": "maze", "size": 41}
    kept = write_dataset(tmp_path / "d", sequences, tokenizer, max_length=8, origin={}, task=task)
    (sequence,) = read_sequences(kept, TRAIN)
    assert sequence.tokens.tolist() == [1, 2, 3, tokenizer.vocabulary.end]
    assert sequence.fixed.tolist() == [True, False, True, False]
    assert kept.task == task
    assert tiny.write_dataset(tmp_path / "text", tiny.texts()).task is None


def test_the_hash_of_a_dataset_is_that_of_its_tokens(tmp_path):
    texts = tiny.texts()
    other = [text[::-1] for text in texts]

    def write(name, texts):
        sequences = [
            (VALIDATION if number % 5 else TRAIN, list(text.encode()))
            for number, text in enumerate(texts)
        ]
        return write_dataset(
            tmp_path / name, sequences, ByteTokenizer({}), max_length=tiny.LENGTH, origin={}
        )

    first, again, reversed_ = write("a", texts), write("b", texts), write("c", other)
    assert first.lengths == reversed_.lengths
    assert first.sha256 == again.sha256 != reversed_.sha256
    mixed = {
        mix_datasets(list(pair), [0.5, 0.5]).sha256
        for pair in itertools.product([first, reversed_], repeat=2)
    }
    assert len(mixed | {first.sha256, reversed_.sha256}) == 6
    # Older versions recorded no hashes of shards.
    path = first.directory / "dataset.json"
    metadata = json.loads(path.read_text())
    for split in metadata["splits"].values():
        del split["sha256"]
    path.write_text(json.dumps(metadata))
    assert len(open_dataset(first.directory).sha256) == 64


@pytest.mark.parametrize(
    ("tasks", "differing"),
    [
        (({"kind": "infilling", "marks": [[1]]}, None), "marks"),
        ((None, {"kind": "infilling", "marks": [[1]]}), "marks"),
        (({"kind": "maze", "walls": ["#."]}, {"kind": "maze", "walls": [".#"]}), "walls"),
        ((None, {"kind": "gsm8k"}), None),
        (({"kind": "infilling", "marks": [[1]]},) * 2, None),
    ],
)
def test_what_a_task_says_holds_for_all_sets_of_a_mixture(tmp_path, tasks, differing):
    """Spans are chosen in all of them, or in none; paths are judged by one maze."""
    sequences, tokenizer = [(TRAIN, [1, 2]), (VALIDATION, [3])], ByteTokenizer({})
    sets = [
        write_dataset(tmp_path / name, sequences, tokenizer, max_length=4, origin={}, task=task)
        for name, task in zip("ab", tasks, strict=True)
    ]
    if differing:
        with pytest.raises(UserError, match=rf"/b and .*/a differ in {differing}, which"):
            mix_datasets(sets, [0.5, 0.5])
    else:
        assert mix_datasets(sets, [0.5, 0.5]).task == tasks[0]


def test_nothing_is_left_of_a_failed_preparation(tmp_path):
    def interrupted():
        yield TRAIN, [1, 2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "d", interrupted(), ByteTokenizer({}), max_length=8, origin={})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        tiny.write_dataset(tmp_path / "d", tiny.texts())
    assert (tmp_path / "d" / "mine").read_text() == "precious"


def test_an_empty_split_is_an_error(tmp_path):
    with pytest.raises(UserError, match="leaves the train split empty"):
        tiny.write_dataset(tmp_path / "d", [])


def _broken(tmp_path, change):
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts())
    path = dataset.directory / "dataset.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))
    return dataset.directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=99), "format version 99"),
        (lambda d: d.pop("vocabulary"), "no field 'vocabulary'"),
        (lambda d: d["vocabulary"].update(mask=999), "mask = 999 lies outside the vocabulary"),
        (lambda d: d["vocabulary"].update(end=-1), "end = -1 lies outside the vocabulary"),
        (lambda d: d["vocabulary"].update(mask=257), "mask and end are both 257"),
        (lambda d: d["splits"].pop("validation"), "no field 'validation'"),
        (lambda d: d["splits"]["validation"].pop("tokens"), "no field 'tokens'"),
        (lambda d: d["splits"]["train"].update(lengths=[]), r"dataset\.json: .*no attribute"),
    ],
)
def test_unusable_metadata_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        open_dataset(_broken(tmp_path, change))


@pytest.mark.parametrize("extra", [1, 2, 4])
def test_a_file_of_lengths_that_grew_is_noticed(tmp_path, extra):
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts())
    with dataset.shards[TRAIN][0].with_suffix(".lengths").open("ab") as file:
        file.write(bytes(extra))
    with pytest.raises(UserError, match=r"d: \d+[.\d]* train sequences, but dataset.json says"):
        open_dataset(dataset.directory)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no prepared dataset in .*nowhere"):
        open_dataset(tmp_path / "nowhere")
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts())
    dataset.shards[TRAIN][0].unlink()
    with pytest.raises(UserError, match=r"train-00000-of-00001\.array_record is missing"):
        open_dataset(dataset.directory)
    assert dataset.max_length == tiny.LENGTH


@pytest.mark.parametrize("content", [b"\xa0", b"{", b"[]", b"{}", b"5"])
def test_a_damaged_description_is_named(tmp_path, content):
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts())
    (dataset.directory / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.json.*prepare the dataset again"):
        open_dataset(dataset.directory)


@pytest.mark.parametrize("given", [-1, 10**9, 1.5, True, "3", [1], {}])
def test_a_count_of_given_tokens_that_cannot_be_is_named(tmp_path, given):
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts())
    path = dataset.directory / "dataset.json"
    metadata = json.loads(path.read_text())
    metadata["splits"]["train"]["given"] = given
    path.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"dataset\.json: given = .* of the train split"):
        open_dataset(dataset.directory)
    for unknown in (None, 0):
        metadata["splits"]["train"]["given"] = unknown
        path.write_text(json.dumps(metadata))
        assert open_dataset(dataset.directory).num_given == unknown


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("name", ["sequences", "tokens", "lengths"])
def test_numbers_that_contradict_each_other_are_noticed(tmp_path, split, name):
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts())
    path = dataset.directory / "dataset.json"
    metadata = json.loads(path.read_text())
    said = metadata["splits"][split]
    if name == "lengths":
        said["lengths"][min(said["lengths"])] += 1
    else:
        said[name] += 1
    path.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=f"of the {split} split contradict each other"):
        open_dataset(dataset.directory)


def test_another_vocabulary_than_the_tokenizers_is_noticed(tmp_path):
    dataset = tiny.write_dataset(tmp_path / "d", tiny.texts())
    path = dataset.directory / "dataset.json"
    metadata = json.loads(path.read_text())
    metadata["vocabulary"]["mask"] = 255
    path.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="is not the tokenizer that"):
        open_dataset(dataset.directory).tokenizer()
