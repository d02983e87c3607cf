"""What --inspect says of a dataset."""

import io

import matplotlib.image
import numpy as np
import tiny

from flexmdm_jax.data.storage.inspection import quantiles, report, save_picture
from flexmdm_jax.data.storage.records import TRAIN


def test_quantiles_agree_with_numpy():
    lengths = np.random.default_rng(0).integers(1, 30, 997)
    counts = {int(n): int((lengths == n).sum()) for n in np.unique(lengths)}
    levels = (0.1, 0.5, 0.9, 1.0)
    expected = np.quantile(lengths, levels, method="inverted_cdf")
    assert quantiles(counts, levels) == expected.tolist()


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
