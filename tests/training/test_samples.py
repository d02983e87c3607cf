"""Texts of the moment during training."""

import json

import jax
import pytest
import tiny
from untrained import untrained_model

from flexmdm_jax.config import EvaluationConfig
from flexmdm_jax.evaluation.suite import Evaluator
from flexmdm_jax.training.logging import MetricsWriter


@pytest.mark.parametrize("method", ["flexmdm", "mdm"])
def test_an_evaluator_writes_a_few_texts(method, tiny_dataset):
    model = untrained_model(tiny_dataset, method, tiny.LENGTH)
    config = EvaluationConfig(num_steps=3, batch_size=8)
    evaluator = Evaluator(model.setup, tiny_dataset, config, tiny.LENGTH, 0)
    with jax.set_mesh(model.setup.mesh):
        samples = evaluator.samples(model.params, 3)
        assert evaluator.samples(model.params, 3) == samples
    assert len(samples) == 3
    decode = tiny_dataset.tokenizer().decode
    assert all(isinstance(x["text"], str) and x["calls"] <= 3 for x in samples)
    assert decode([97]) == "a"


def test_texts_are_lines_of_a_file_and_shown_by_tensorboard(tmp_path):
    writer = MetricsWriter(tmp_path)
    (tmp_path / "samples.jsonl").write_text('{"step": 1, "text": "old"}\n{"torn')
    sample = {"text": "é\n* no list", "length": 3, "calls": 2, "truncated": False}
    writer.write_samples(5, [sample, sample | {"text": ""}])
    writer.close()
    first, second, third = map(json.loads, (tmp_path / "samples.jsonl").open(encoding="utf-8"))
    assert (first["text"], second["text"], third["text"]) == ("old", "é\n* no list", "")
    assert second["step"] == 5
    [board] = (tmp_path / "tensorboard").iterdir()
    assert b"    * no list" in board.read_bytes()
