"""Odd command lines, and machines too small for what they ask: one clear line."""

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from commands import refuse

from flexmdm_jax import cli
from flexmdm_jax.config import read_config
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import nearest_folder
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.memory import bytes_of_a_batch, check_training
from flexmdm_jax.training.profiling import NO_PROFILE, Window
from flexmdm_jax.training.state import Setup, init_state
from flexmdm_jax.types import Vocabulary

COMMANDS = ("quickstart", "prepare", "train", "sample", "serve", "evaluate", "convert", "aot")
# A flag of each command that must be given, and one that takes a text.
REQUIRED = {
    "quickstart": ("text",),
    "train": ("config", "workdir"),
    "sample": ("workdir",),
    "serve": ("workdir",),
    "evaluate": ("workdir",),
    "convert": ("from", "out"),
    "aot": ("config", "topology"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_flag_files_that_cannot_be_read_are_named(command, tmp_path):
    (tmp_path / "binary").write_bytes(b"--seed=\xff\xfe")
    refuse("--flagfile=nosuch: No such file", command, "--flagfile=nosuch")
    refuse(f"--flagfile={tmp_path}: Is a directory", command, f"--flagfile={tmp_path}")
    refuse("--flagfile: .*it must be text", command, f"--flagfile={tmp_path}/binary")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("argument", ["--out=\udcff", "--nosuch=\udcff", "\udcff"])
def test_what_is_not_utf8_is_named(command, argument):
    refuse(r"\\udcff': not UTF-8", command, argument)


@pytest.mark.parametrize(
    ("command", "flag"),
    [("prepare", "source"), ("prepare", "out"), ("train", "workdir"), ("sample", "out")],
)
def test_a_path_that_is_given_twice_is_named(command, flag):
    """The last would win, and nobody would miss the first."""
    required = [f"--{name}=x" for name in REQUIRED.get(command, ()) if name not in ("config", flag)]
    config = ["--config=configs/demo.py"] * ("config" in REQUIRED.get(command, ()))
    twice = [f"--{flag}=a", f"--{flag}=b"]
    refuse(f"--{flag} is given twice, and only one can be", command, *config, *required, *twice)


@pytest.mark.parametrize("command", REQUIRED)
def test_flags_that_must_be_given_are_named(command):
    names = " and ".join(f"--{name}" for name in REQUIRED[command])
    refuse(f"error: {names} must be given", command, *["export"] * (command == "convert"))


@pytest.mark.parametrize(
    ("command", "flag"), [(c, n) for c, names in REQUIRED.items() for n in names if n != "config"]
)
def test_flags_that_are_given_are_not_empty(command, flag):
    others = [f"--{name}=x" for name in REQUIRED[command] if name not in ("config", flag)]
    config = ["--config=configs/demo.py"] * ("config" in REQUIRED[command])
    subcommand = ["export"] * (command == "convert")
    line = f"--{flag}= is empty; give it a value"
    refuse(line, command, *subcommand, *config, *others, f"--{flag}=")


@pytest.mark.parametrize("command", COMMANDS)
def test_fields_of_a_config_need_its_file(command):
    takes = command in ("train", "convert", "aot")
    advice = "name its file first: --config=FILE" if takes else "this command reads no config"
    refuse(f"--config.seed is a field of a config; {advice}", command, "--config.seed=1")


def test_configs_that_are_none_are_named(tmp_path):
    (tmp_path / "binary.py").write_bytes(b"\x7fELF\0\0")
    train = ("train", "--workdir=w")
    refuse("binary.py: not a config", *train, f"--config={tmp_path}/binary.py")
    refuse("a folder; name one of its files", *train, f"--config={tmp_path}")
    twice = ("--config=configs/demo.py", "--config=configs/owt.py", "--config.seed=1")
    refuse("--config is given twice", *train, *twice)


def test_what_would_be_ignored_is_refused():
    refuse("--inspect describes", "prepare", "--inspect=d", "--source=stdlib")
    places = ("--from=d", "--out=o")
    refuse("--base is for merge and peft", "convert", "export", *places, "--base=b")
    refuse("--mask_id is for flexmdm; leave", "convert", "llada", *places, "--mask_id=5")
    refuse("--config is for peft and flex", "convert", "xlm", *places, "--config=configs/demo.py")
    corpus = ("--source=stdlib", "--out=o", "--beam_option=--runner=FlinkRunner")
    refuse("--beam_option goes with --runner=beam", "prepare", *corpus)
    compiled = ("--config=configs/demo.py", "--topology=v5e-4")
    refuse("--search finds --per_device", "aot", *compiled, "--search", "--per_device_batch=8")
    refuse("--programs= is empty", "aot", *compiled, "--programs=")


def xla_asks_for_too_much():
    jax.jit(lambda: jnp.zeros(2**44))().block_until_ready()


def numpy_asks_for_too_much():
    np.ones(2**50)


def python_asks_for_too_much():
    raise MemoryError


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (xla_asks_for_too_much, "not enough memory for 70368744177664 bytes at once; lower"),
        (numpy_asks_for_too_much, "not enough memory for 8.00 PiB at once; lower"),
        (python_asks_for_too_much, "not enough memory; lower the batch size"),
    ],
)
def test_lack_of_memory_is_one_line(ask, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit) as ended:
        cli._call(ask, "")
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_other_failures_are_not_taken_for_lack_of_memory(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(RuntimeError, match="of our own"):
        cli._call(lambda: (_ for _ in ()).throw(RuntimeError("of our own")), "")


def setup_of(**changes):
    values = tiny.config_at("nowhere")
    for path, value in changes.items():
        group, name = path.split("__")
        values[group][name] = value
    config = read_config(values)
    return config, Setup.of(config, Vocabulary(258, 256, 257), make_mesh(config.mesh))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__max_length": 10**7}, "attention within 8 rows of 10,000,000 slots: .*max_length"),
        ({"training__batch_size": 10**9}, "lower config.training.batch_size"),
        ({"evaluation__batch_size": 10**9}, "lower config.evaluation.batch_size"),
        ({"model__hidden_size": 10**6}, "parameters and optimizer: .*or the sizes of config.model"),
        ({"model__num_layers": 2**31 - 1}, "parameters and optimizer"),
    ],
)
def test_what_no_memory_can_hold_is_refused_before_it_is_tried(changes, message):
    with pytest.raises(UserError, match=rf"than the [\d.,]+ GB of this machine.*{message}"):
        check_training(*setup_of(**changes))
    check_training(*setup_of())


@pytest.mark.parametrize("length", [256, 512])
def test_a_batch_takes_no_less_than_is_said(length):
    """A compiled network's own memory is the measure."""
    config, setup = setup_of(data__max_length=length)
    make_state, _ = init_state(setup, optax.identity(), 0)
    params = jax.eval_shape(make_state).params
    tokens = jax.ShapeDtypeStruct((8, length), jnp.int32)
    alpha = jax.ShapeDtypeStruct((8, 1), jnp.float32)
    encode = jax.jit(lambda params, *batch: setup.denoiser(params).encode(*batch))
    used = encode.lower(params, tokens, tokens, alpha).compile().memory_analysis()
    said = sum(bytes_of_a_batch(config, 8, config.data.max_length).values())
    assert said <= used.temp_size_in_bytes + used.output_size_in_bytes < 20 * said


def test_steps_to_profile_are_steps_that_are_taken():
    Window(1, 10).check(0, 10)
    Window(3, 6).check(5, 10)
    NO_PROFILE.check(5, 10)
    with pytest.raises(UserError, match=r"--profile=3:11: training ends with step 10"):
        Window(3, 11).check(0, 10)
    with pytest.raises(UserError, match=r"--profile=3:5: the run goes on after step 5"):
        Window(3, 5).check(5, 10)


def test_the_nearest_folder_is_one_that_has_the_file(tmp_path):
    for name in ("demo", "demo_mdm", "demmo_notes"):
        (tmp_path / name).mkdir()
    for name in ("demo", "demo_mdm"):
        (tmp_path / name / "run.json").write_text("")
    expected = f"; did you mean {tmp_path}{os.sep}demo?"
    assert nearest_folder(tmp_path / "demmo", "run.json") == expected
    assert nearest_folder(tmp_path / "owt", "run.json") == ""
    assert nearest_folder(tmp_path / "nowhere" / "demo", "run.json") == ""
