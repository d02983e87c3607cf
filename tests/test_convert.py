"""The command as a user runs it."""

import pytest
import torch_llada
from commands import run, succeed


def test_a_model_goes_in_and_comes_out(tmp_path):
    sizes = torch_llada.Sizes(layers=1)
    source = torch_llada.save(tmp_path / "source", sizes, torch_llada.random_state(sizes))
    for command, origin, out in (("llada", source, "base"), ("export", tmp_path / "base", "out")):
        result = succeed("convert", command, f"--from={origin}", f"--out={tmp_path / out}")
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
    result = run("convert", *arguments, f"--from={tmp_path}", f"--out={tmp_path / 'out'}")
    assert result.stderr.strip() == message
    assert result.returncode == 2
    assert not (tmp_path / "out").exists()
