"""What --inspect says of a dataset."""

import dataclasses
import io
import re

import matplotlib.image
import numpy as np
import tiny

from flexmdm_jax.data.storage.inspection import quantiles, report, save_picture, summary
from flexmdm_jax.data.storage.records import TRAIN


def test_quantiles_agree_with_numpy():
    lengths = np.random.default_rng(0).integers(1, 30, 997)
    counts = {int(n): int((lengths == n).sum()) for n in np.unique(lengths)}
    levels = (0.1, 0.5, 0.9, 1.0)
    expected = np.quantile(lengths, levels, method="inverted_cdf")
    assert quantiles(counts, levels) == expected.tolist()


def test_all_that_is_not_zero_is_said_and_older_counts_are_understood(tiny_dataset):
    def said(**values):
        return summary(dataclasses.replace(tiny_dataset, metadata=tiny_dataset.metadata | values))

    names = ("documents", "bad_documents", "empty_documents", "characters", "texts", "novelties")
    counts = dict.fromkeys((*names, "split_texts", "lost_texts"), 0)
    for name in counts:
        text = said(counts=counts | {name: 1234})
        assert "1,234 " in text
        assert not re.search(r"\b0 ", text)
    assert "tokenizer: 5 checked texts" in said(
        counts=counts | {"texts": 5, "checked_texts": 5, "changed_texts": 0}
    )
    text = said(
        counts={"texts": 2000, "checked_texts": 400, "changed_texts": 12},
        first_changed_text='x.txt: "ﬁ" became "fi"',
    )
    assert (
        "tokenizer: 12 of 400 checked texts (3.0 %; a sample of all 2,000) do not come back as "
        'they were (first: x.txt: "ﬁ" became "fi")'
    ) in text
    # What versions before this one wrote.
    old = {"documents": 5, "empty_documents": 0, "bad_documents": 1, "characters": 99}
    assert "5 documents, 1 bad documents left out, 99 characters\n" in said(counts=old)
    assert "train:" in said()


def test_a_report_counts_draws_and_quotes(tiny_dataset, tmp_path):
    text = report(tiny_dataset, examples=3)
    count = tiny_dataset.num_sequences[TRAIN]
    assert f"train: {count:,} sequences" in text
    bars = [line.split() for line in text.split("\n\n")[1].splitlines()]
    assert sum(int(bar[1].replace(",", "")) for bar in bars) == count
    examples = text.split("--- training example ")[1:]
    assert len(examples) == 3
    assert all(example.split("\n", 1)[1].rstrip("\n") in tiny.texts() for example in examples)
    picture = save_picture(tiny_dataset, tmp_path / "lengths.png")
    assert matplotlib.image.imread(io.BytesIO(picture.read_bytes())).std() > 0
