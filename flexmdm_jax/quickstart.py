"""Trains on a text of yours, in minutes: python -m flexmdm_jax.quickstart --text=book.txt

Looks at the text, chooses a tokenizer, lengths and a network, measures how fast a step is here, and
says what it chose and why. The config file that it writes is yours to change.
"""

import pathlib
import shlex
import subprocess
import sys
import tempfile

from absl import flags, logging

from flexmdm_jax import cli, options
from flexmdm_jax.config import load_config_file, read_config
from flexmdm_jax.data.preparation import runners
from flexmdm_jax.data.preparation.units import Plan, prepare_dataset
from flexmdm_jax.data.storage.records import TRAIN, Dataset
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import check_writable, json_text, write_atomically
from flexmdm_jax.ranges import Positive
from flexmdm_jax.recipes.choice import Choice, choose, config_text, steps_within
from flexmdm_jax.recipes.speed import Speed, measured
from flexmdm_jax.recipes.survey import Survey, survey

_TEXT = options.define_path("text", None, "A text file, in UTF-8, or several: 'corpus/*.txt'.")
_MINUTES = options.define_number("minutes", 10.0, "For everything, on this machine.", Positive)
_OUT = options.define_path("out", "runs/own", "Folder to make: data, config and run.")
_TRAIN = flags.DEFINE_bool("train", True, "Train as well; otherwise stop at the config file.")


def main(_):
    """Runs the command."""
    logging.set_verbosity(logging.WARNING)
    out = pathlib.Path(_OUT.value)
    config = out / "config.py"
    if config.exists():
        raise UserError(
            f"{config} is there already; go on with: {_shown(_training(out))}, or name another "
            "folder with --out"
        )
    check_writable(config)
    text = survey(_TEXT.value)
    choice = choose(text, _MINUTES.value)
    dataset = _prepare(text, choice, out)
    speed, num_steps = _measure(choice, dataset)
    _say(text, choice, speed, num_steps)
    write_atomically(config, config_text(choice, str(dataset.directory), num_steps).encode())
    print(f"\n{config} says all of it; change it and train again in another --workdir")
    if _TRAIN.value:
        for command in _commands(out):
            print(f"\n$ {_shown(command)}", flush=True)
            if code := subprocess.run(command, check=False).returncode:
                sys.exit(code)


def _prepare(text: Survey, choice: Choice, out: pathlib.Path) -> Dataset:
    """Returns the dataset of a text, made in a folder.

    Raises:
      UserError: If the folder holds another text, which may be somebody's only one.
    """
    source = out / "text.jsonl"
    lines = "".join(f"{json_text({'text': part})}\n" for part in text.texts).encode()
    if source.exists() and source.read_bytes() != lines:
        raise UserError(f"{source} is there already, with other text; name another folder by --out")
    write_atomically(source, lines)
    plan = Plan(
        source=f"jsonl:{source}",
        tokenizer=choice.tokenizer,
        max_length=choice.max_length,
        validation_fraction=0.1,
    )
    return prepare_dataset(out / "data", plan, runners.processes(1))


def _measure(choice: Choice, dataset: Dataset) -> tuple[Speed, int]:
    """Returns how fast a step is here, and how many of them the time is enough for."""
    print("measuring how long a step takes here", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        draft = pathlib.Path(folder) / "config.py"
        draft.write_bytes(config_text(choice, str(dataset.directory), 1000).encode())
        config = read_config(load_config_file(str(draft)))
    speed = measured(config, dataset)
    total = dataset.num_sequences[TRAIN]
    return speed, steps_within(_MINUTES.value, speed.step_seconds, total, speed.sequences)


def _say(text: Survey, choice: Choice, speed: Speed, num_steps: int) -> None:
    """Prints what was chosen, why, and what it will take."""
    beginning = f", of which the first {len(text.texts):,} are used" if text.cut else ""
    print(f"{text.num_bytes:,} bytes; {len(text.texts):,} {text.unit}s{beginning}")
    for reason in choice.reasons:
        print(f"* {reason}")
    print(
        f"* {num_steps:,} steps of {speed.sequences:.0f} {text.unit}s: {speed.step_seconds:.2f} s "
        f"each here, {num_steps * speed.step_seconds / 60:.1f} minutes, after "
        f"{speed.compile_seconds:.0f} s of compiling; {speed.parameters / 1e6:.2f} million "
        "parameters"
    )


def _training(out: pathlib.Path) -> list[str]:
    """Returns the command that trains, or goes on where it stopped."""
    module = [sys.executable, "-m", "flexmdm_jax.train"]
    return [*module, f"--config={out / 'config.py'}", f"--workdir={out / 'run'}"]


def _shown(command: list[str]) -> str:
    """Returns a command as it is to be typed."""
    return shlex.join(["python", *command[1:]])


def _commands(out: pathlib.Path) -> list[list[str]]:
    """Returns the commands that train, write and measure."""
    run = f"--workdir={out / 'run'}"
    module = [sys.executable, "-m"]
    sample = ("--num=16", "--print=6", f"--out={out / 'samples.jsonl'}")
    trace = (f"--trace={out / 'trace.html'}", "--overwrite")
    return [
        _training(out),
        [*module, "flexmdm_jax.sample", run, *sample, *trace],
        [*module, "flexmdm_jax.evaluate", run, "--num=128", "--num_times=8", "--overwrite"],
    ]


if __name__ == "__main__":
    flags.mark_flags_as_required(["text"])
    cli.run(main)
