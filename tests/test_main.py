"""flexmdm COMMAND is python -m flexmdm_jax.COMMAND, whatever either is given."""

import pathlib

import pytest
from commands import refuse, run

from flexmdm_jax.__main__ import COMMANDS

PACKAGE = pathlib.Path(__file__).parents[1] / "flexmdm_jax"
FLEXMDM = "flexmdm_jax.__main__"


def test_every_command_is_there():
    starts = ("\n    cli.run(main", "\n    cli.guard(main")
    texts = {path.stem: path.read_text() for path in PACKAGE.glob("*.py")}
    assert set(COMMANDS) == {n for n, text in texts.items() if any(x in text for x in starts)}


@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_alone_it_lists_the_commands(arguments):
    result = run(FLEXMDM, *arguments)
    assert result.returncode == 0
    listed = [line.split()[0] for line in result.stdout.splitlines()[2:]]
    assert listed == list(COMMANDS)
    assert all(len(line) < 90 for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("trian", "; did you mean 'train'\\?$"),
        ("nonsense", "; choose one of quickstart, "),
        ("", ""),
    ],
)
def test_what_is_no_command_is_one_line(name, advice):
    refuse(f"^error: unknown command '{name}'{advice}", FLEXMDM, name)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_that_of_the_command(command):
    """Its flags are found by the file that is run, so this is where another way to start fails."""
    short, long = run(FLEXMDM, command, "--help"), run(command, "--help")
    assert short.stdout == long.stdout
    # The harness' command line is not ours.
    theirs = {"harness": "usage: lm-eval "}
    assert theirs.get(command, f"flexmdm_jax/{command}.py:") in short.stdout
    assert short.returncode == long.returncode


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("--workdir must be given", ["sample"]),
        ("--workdir= is empty", ["sample", "--workdir="]),
        ("--out is given twice", ["sample", "--workdir=w", "--out=a", "--out=b"]),
        ("--num has no say beside --replay", ["sample", "--workdir=w", "--replay=r", "--num=3"]),
        (
            "unexpected argument 'more'",
            ["train", "more", "--config=configs/demo.py", "--workdir=w"],
        ),
        ("expected one of llada, .*, got 'lada'", ["convert", "lada", "--from=a", "--out=b"]),
        (
            "unknown config field config.sed",
            ["train", "--config=configs/demo.py", "--config.sed=1"],
        ),
    ],
)
def test_mistakes_are_told_as_they_are_without_it(message, arguments):
    refuse(message, FLEXMDM, *arguments)
