"""Every command in the pages is one that exists, with flags that are there and values that fit."""

import importlib.util
import os
import pathlib
import re
import shlex
import subprocess

import pytest
from commands import run
from page_files import FILES, ROOT, blocks

from flexmdm_jax.config import load_config_file
from flexmdm_jax.data.tasks import TASKS
from flexmdm_jax.sharding import check_slices

MAKEFILE = (ROOT / "Makefile").read_text()
# What tests elsewhere run, or what needs more than this machine: by its first word, the reason.
NOT_PARSED = {
    ".venv/bin/python": "pytest, of whoever changes the code",
    "tensorboard": "another program",
    "curl": "asked of a server in tests/serving/test_docs.py",
    "gcloud": "needs Cloud TPU; tests/launch has stand-ins",
    "pip": "fetches packages",
    "python -c": "a line for a machine with a GPU",
    "python -m pip": "fetches packages",
    "python -m zipfile": "unpacks what was fetched",
    ".": "the shell's own",
    "for": "the shell's own",
    "done": "the shell's own",
    "cat": "writes a file",
    "mkdir": "makes a folder",
    "export": "the shell's own",
}


def commands_of(code):
    """Returns the commands of a block, each as its words, without what is set before them."""
    code = re.sub(r"<<'?(\w+)'?\n.*?\n\1\n", "\n", code, flags=re.DOTALL)
    code = re.sub(r"\$\([^)]*\)", "SUBSTITUTED", code.replace("\\\n", " "))
    for name, value in _variables(code):
        code = code.replace(f"${name}", value)
    found = []
    for line in code.replace("; ", " ; ").splitlines():
        command = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word in ("&&", "||", "|", ";"):
                found += [command] if command else []
                command = []
            elif word == "do" and not command:
                continue
            elif command or not re.match(r"\w+=", word):
                command.append(word)
    return found


def _variables(code):
    """Returns (name, value) of what a block sets for itself; of a loop's variable, the first."""
    assigned = re.findall(r"^(\w+)=\"(.*)\"$", code, re.MULTILINE)
    return assigned + re.findall(r"^ *for (\w+) in (\w+)", code, re.MULTILINE)


def lines():
    """Returns (where it stands, command) of all commands of all pages, each once."""
    found = {}
    for block in blocks("sh"):
        for words in commands_of(block.code):
            found.setdefault(tuple(words), str(block))
    return [(where, list(words)) for words, where in found.items()]


LINES = lines()


def kind(words):
    """Returns how a command is known: its first word, of Python's what it runs."""
    if words[0] in ("python", "python3"):
        known = words[2] if words[1] == "-m" else ""
        ours = known.startswith(("flexmdm_jax.", "benchmarks."))
        return "ours" if ours else " ".join(["python", *words[1 : 3 if known else 2]])
    return "launch" if words[0].startswith("launch/") else words[0]


def of_kind(*kinds):
    return [pytest.param(words, id=where) for where, words in LINES if kind(words) in kinds]


STOP = "stop-here"


def check(module, arguments):
    """Asserts that a command takes its arguments: it gets as far as one that it has no use for."""
    result = run(module, *arguments, STOP)
    assert f"error: unexpected argument {STOP!r}" in result.stderr, result.stderr


@pytest.mark.parametrize("words", of_kind("ours"))
def test_commands_take_what_they_are_given(words):
    module = words[2]
    path = ROOT / f"{module.replace('.', '/')}.py"
    assert path.exists()
    if "cli.run" in path.read_text():
        check(module, words[3:])
    elif "cli.guard" in path.read_text():
        # It reads its flags as argparse does, some of them as many words as follow.
        result = run(module, STOP, *words[3:])
        assert result.stderr.endswith(f"error: unrecognized arguments: {STOP}\n"), result.stderr
    else:
        # Some benchmarks read no flags, others Python's own way.
        for argument in words[3:]:
            name = argument.removeprefix("--").partition("=")[0]
            assert f'"{name}"' in path.read_text() or f'"--{name}"' in path.read_text()


@pytest.mark.parametrize("words", of_kind("launch"))
def test_launchers_exist_and_hand_on_flags_that_train_has(words):
    script, *arguments = words
    assert os.access(ROOT / script, os.X_OK)
    verb = next((x for x in arguments if x in ("sample", "evaluate")), "train")
    flags = [x for x in arguments if x.startswith("--") and x != "--dry_run"]
    if flags:
        # Where a run lies, the scripts say themselves.
        check(f"flexmdm_jax.{verb}", [*flags, "--workdir=runs/x"])


@pytest.mark.parametrize(
    ("target", "message"), [("demo-own", "say which text"), ("retrofit", "say where gsm8k/ lies")]
)
def test_targets_say_what_they_lack(target, message, tmp_path):
    # A make that runs tests would have this one say which folder it enters.
    command = ["make", "--no-print-directory", "-f", ROOT / "Makefile", "-o", "install", target]
    command += ["TEXT=", "FLEXMDM_DATA_DIR="]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 2
    assert made.stdout.startswith(message)
    assert list(tmp_path.iterdir()) == []


def _flag(words, name, default=""):
    """Returns what a command gives a flag, last."""
    given = [x.partition("=")[2] for x in words if x.startswith(f"--{name}=")]
    return given[-1] if given else default


@pytest.mark.parametrize("words", [x for x in of_kind("launch") if "slurm" in x.values[0][0]])
def test_runs_under_slurm_have_a_mesh_for_their_nodes(words):
    [nodes] = re.findall(r"^#SBATCH --nodes=(\d+)$", (ROOT / words[0]).read_text(), re.MULTILINE)
    mesh = load_config_file(str(ROOT / _flag(words, "config"))).mesh
    check_slices(int(_flag(words, "config.mesh.data", mesh.data)), int(nodes))


@pytest.mark.parametrize("words", of_kind("make"))
def test_targets_of_make_are_there(words):
    for target in (x for x in words[1:] if "=" not in x):
        pattern = rf"^(?:[\w/%-]+ )*{re.escape(target)}(?: [\w/%-]+)*:(?!=)"
        assert re.search(pattern, MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize("path", FILES, ids=[str(x.relative_to(ROOT)) for x in FILES])
def test_what_a_page_prepares_fits_what_it_trains(path):
    prepared = {}
    for words in (x for block in blocks("sh", [path]) for x in commands_of(block.code)):
        known = words[2] if kind(words) == "ours" else ""
        # Tasks say in their own arguments how long sequences may be.
        task = _flag(words, "source").partition(":")[0] in TASKS
        if known == "flexmdm_jax.prepare" and not task:
            prepared[_flag(words, "out")] = int(_flag(words, "max_length", "1024"))
        elif known == "flexmdm_jax.train":
            data = load_config_file(str(ROOT / _flag(words, "config"))).data
            length = int(_flag(words, "config.data.max_length", data.max_length))
            assert prepared.get(_flag(words, "config.data.path", data.path), 0) <= length, words


def test_every_other_command_is_known_and_has_a_reason():
    others = {kind(words) for _, words in LINES} - {"ours", "make", "launch"}
    assert others == set(NOT_PARSED)


def test_shell_is_taken_apart():
    code = (
        "A=1 make x   # why\n"
        "python -m flexmdm_jax.train --a='b c' \\\n  --d && cat > f <<'EOF'\nx\nEOF\n"
    )
    train = ["python", "-m", "flexmdm_jax.train", "--a=b c", "--d"]
    assert commands_of(code) == [["make", "x"], train, ["cat", ">", "f"]]
    assert kind(train) == "ours"


def test_a_flag_that_is_not_there_is_found():
    with pytest.raises(AssertionError, match="Unknown command line flag 'nosuch'"):
        check("flexmdm_jax.sample", ["--nosuch=1"])
    with pytest.raises(AssertionError, match="unknown config field"):
        check("flexmdm_jax.train", ["--config=configs/demo.py", "--config.modell.x=1"])


def defined_flags():
    """Returns the names of all flags of commands and benchmarks, as their sources define them."""
    found = {"config", "seed", "mesh", "help", "flagfile"}
    for folder in ("flexmdm_jax", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text()
            found |= set(re.findall(r"(?i:define_\w+|text|number)\(\s*\"(\w+)\"", source))
            found |= set(re.findall(r"add_argument\(\s*\"--(\w+)\"", source))
    return found


def harness_flags():
    """Returns the names of the harness' own flags, which its page speaks of."""
    [package] = importlib.util.find_spec("lm_eval").submodule_search_locations
    source = pathlib.Path(package, "_cli", "run.py").read_text()
    return set(re.findall(r"add_argument\(\s*\"--(\w+)\"", source))


# Of other programs.
FOREIGN = {"split", "dry_run", "no"}


@pytest.mark.parametrize("path", FILES, ids=[str(x.relative_to(ROOT)) for x in FILES])
def test_flags_that_are_spoken_of_are_there(path):
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    code = re.findall(r"`([^`\n]+)`", prose)
    # Ours have no hyphens.
    named = {x for text in code for x in re.findall(r"(?<![\w-])--(\w+)(?![\w-])", text)}
    known = defined_flags() | (harness_flags() if path.stem == "harness" else FOREIGN)
    assert {x for x in named if x.removeprefix("no") not in known and x not in known} == set()
