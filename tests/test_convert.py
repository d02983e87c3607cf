"""The command as a user runs it."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch_llada

ROOT = pathlib.Path(__file__).parents[1]


def convert(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "flexmdm_jax.convert", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )


def test_a_model_goes_in_and_comes_out(tmp_path):
    sizes = torch_llada.Sizes(layers=1)
    source = torch_llada.save(tmp_path / "source", sizes, torch_llada.random_state(sizes))
    for command, origin, out in (("llada", source, "base"), ("export", tmp_path / "base", "out")):
        result = convert(command, f"--from={origin}", f"--out={tmp_path / out}")
        assert result.returncode == 0, result.stderr
        assert "WARNING" not in result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["llama"], "error: expected one of llada, export, merge, peft, flexmdm, got 'llama'"),
        (["flexmdm"], "error: --config is missing; it says what the run to make is"),
    ],
)
def test_what_it_cannot_do_takes_one_line(tmp_path, arguments, message):
    result = convert(*arguments, f"--from={tmp_path}", f"--out={tmp_path / 'out'}")
    assert result.stderr.strip() == message
    assert result.returncode == 2
    assert not (tmp_path / "out").exists()
