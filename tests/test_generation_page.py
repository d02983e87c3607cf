"""The examples of docs/generation.md run as printed."""

import pathlib
import re

import numpy as np
import pytest
from untrained import untrained_model

from flexmdm_jax import model as models

ROOT = pathlib.Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "generation.md", ROOT / "README.md"


def _examples():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_a_trained_model_writes_in_three_lines(tiny_dataset, monkeypatch, capsys):
    first, _ = _examples()
    model = untrained_model(tiny_dataset, "flexmdm", 64)
    monkeypatch.setattr(models, "load", lambda workdir: model)
    names = {}
    exec(compile(first, str(PAGE), "exec"), names)
    out = capsys.readouterr().out
    assert out.startswith("The with statement")
    assert len(names["result"].generated) == 1
    assert np.isfinite(names["model"].score(["x"]).nats).all()


def test_the_readmes_three_lines_write_a_text(tiny_dataset, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    model = untrained_model(tiny_dataset, "flexmdm", 64)
    monkeypatch.setattr(models, "load", lambda workdir: model)
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out.startswith("The with statement")


def test_the_engine_takes_a_law_of_ones_own(capsys):
    _, second = _examples()
    exec(compile(second, str(PAGE), "exec"), {})
    # The mean of 1,000 lengths of variance 2.
    assert float(capsys.readouterr().out) == pytest.approx(1.0, abs=4 * (2 / 1_000) ** 0.5)


def test_the_page_names_every_setting():
    from flexmdm_jax.generation.parsing import SETTINGS

    for name in SETTINGS:
        assert f"`{name}`" in PAGE.read_text(), name
