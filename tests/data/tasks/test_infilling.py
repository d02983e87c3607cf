"""Spans are uniform, new in every epoch, and the text around them is kept."""

import collections
import json
import re

import numpy as np
import pytest
import tiny

from flexmdm_jax.data.batches.examples import Examples
from flexmdm_jax.data.batches.rows import padded_row
from flexmdm_jax.data.storage.inspection import summary
from flexmdm_jax.data.storage.records import TRAIN, Sequence
from flexmdm_jax.data.tasks.infilling import InfillingConfig, fix_around_span
from flexmdm_jax.data.tokenizers import ByteTokenizer, SymbolTokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.process import Process


def test_every_span_is_equally_likely():
    sequence = Sequence(np.arange(5), np.zeros(5, bool))
    n = 3000
    counts = collections.Counter(
        tuple(np.flatnonzero(~fix_around_span(sequence, i, seed=1).fixed).tolist())
        for i in range(n)
    )
    # END, the last token, is never fixed here; the pipeline fixes it for FlexMDM.
    expected = {(*range(a, b), 4) for a in range(4) for b in range(a + 1, 5)}
    assert set(counts) == expected
    for count in counts.values():
        assert count == pytest.approx(n / 10, abs=5 * (n * 0.1 * 0.9) ** 0.5)


@pytest.fixture
def dataset(tmp_path):
    texts = tiny.texts(12)
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"code": "{text}"}}\n' for text in texts))
    task = InfillingConfig(f"jsonl:{tmp_path}/texts.jsonl#code", tiny.LENGTH, 0.3)
    return task.write(tmp_path / "data", ByteTokenizer({}))


def _summary(tmp_path, name, texts, max_length):
    lines = "".join(json.dumps({"code": text}) + "\n" for text in texts)
    (tmp_path / "texts.jsonl").write_text(lines)
    task = InfillingConfig(f"jsonl:{tmp_path}/texts.jsonl#code", max_length, 0.3)
    dataset = task.write(tmp_path / name, ByteTokenizer({}))
    return dataset, summary(dataset)


def test_what_is_left_out_is_counted_and_the_length_that_is_named_holds_all(tmp_path):
    texts = [*tiny.texts(12), "", "long" * 10, "longer" * 10]
    short, said = _summary(tmp_path, "short", texts, tiny.LENGTH)
    left_out = r"left out: 2 of 15 documents take more than max_length = 24 slots; max_length=(\d+)"
    named = int(re.search(left_out, said)[1])
    assert "1 empty documents left out" in said
    assert sum(short.num_sequences.values()) == 12
    all_of_them, said = _summary(tmp_path, "long", texts, named)
    assert "left out: " not in said
    assert sum(all_of_them.num_sequences.values()) == 14
    shorter, said = _summary(tmp_path, "shorter", texts, named - 1)
    assert "left out: 1 of 15" in said
    assert sum(shorter.num_sequences.values()) == 13


def test_that_no_text_fits_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no text fits into max_length = 9 slots; max_length=41"):
        _summary(tmp_path, "d", ["long" * 10, "longer" * 5, ""], 9)


def test_a_text_that_cannot_be_encoded_is_named(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "a b"}\n{"text": "a c"}\n')
    symbols = SymbolTokenizer.of(["a", "b", "<prefix>", "</prefix><suffix>", "</suffix>"])
    with pytest.raises(UserError, match=r"texts\.jsonl, line 2: .* \('c' is no symbol"):
        InfillingConfig(f"jsonl:{tmp_path}/texts.jsonl").write(tmp_path / "d", symbols)


def _rows(dataset, make, length, num_batches):
    process = make(dataset.vocabulary)
    examples = Examples(dataset, process, length=length, seed=3)
    numbers = np.arange(4 * num_batches)
    for sequence in examples.sequences(numbers % dataset.num_sequences[TRAIN], numbers):
        yield padded_row(sequence, length, dataset.vocabulary)


def test_flexmdm_keeps_both_sides_in_place_and_chooses_anew_in_every_epoch(dataset):
    spans = collections.defaultdict(set)
    for row in _rows(dataset, Process, tiny.LENGTH, 30):
        real = row["segment_ids"] > 0
        tokens, fixed = row["tokens"][real], row["fixed"][real]
        assert fixed[-1], "END is given"
        free = np.flatnonzero(~fixed)
        np.testing.assert_array_equal(np.diff(free), 1)
        spans[bytes(tokens[:-1].tolist())].add((free[0], free[-1]))
    longest = max(spans, key=len)
    assert len(spans[longest]) > 3


def test_mdm_is_told_both_sides_first(dataset):
    texts = {
        bytes(row["tokens"][row["segment_ids"] > 0][:-1].tolist()).decode()
        for row in _rows(dataset, Process, tiny.LENGTH, 10)
    }
    for row in _rows(dataset, Process.mdm, 80, 5):
        given = bytes(row["tokens"][row["fixed"]].tolist()).decode()
        rest = row["tokens"][~row["fixed"]]
        prefix, _, suffix = (
            given.removeprefix("<prefix>").removesuffix("</suffix>").partition("</prefix><suffix>")
        )
        span = bytes(rest[rest != 257].tolist()).decode()
        assert span
        assert prefix + span + suffix in texts
