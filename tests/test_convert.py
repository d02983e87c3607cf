"""The command as a user runs it."""

import pytest
import tiny
import torch_llada
from commands import config_file, refuse, run, succeed


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
        (["llama"], "error: expected one of llada, export, merge, peft, flexmdm, xlm, got 'llama'"),
        (["flexmdm"], "error: --config is missing; it says what the run to make is"),
    ],
)
def test_what_it_cannot_do_takes_one_line(tmp_path, arguments, message):
    result = run("convert", *arguments, f"--from={tmp_path}", f"--out={tmp_path / 'out'}")
    assert result.stderr.strip() == message
    assert result.returncode == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.ckpt", "nowhere.ckpt: No such file or directory"), ("", "Is a directory")],
)
def test_a_checkpoint_that_is_not_there_is_missing(tmp_path, name, message):
    config = config_file(tmp_path / "config.py", tiny.config_at(tmp_path))
    arguments = [f"--config={config}", "--tokenizer=bytes", f"--out={tmp_path / 'out'}"]
    refuse(
        f"{message}; name a file of torch.save",
        "convert",
        "flexmdm",
        f"--from={tmp_path / name}",
        *arguments,
    )
