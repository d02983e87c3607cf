"""Runs the quick part of the suite on other versions of Python and JAX that are found here.

make test-matrix, or python tests/matrix.py 3.13 for one of them. Environments are kept in
~/.cache/flexmdm_jax/matrix, or under XDG_CACHE_HOME, until other packages are asked for; a version
that is not found is said to be so.
"""

import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")

# Python -> the series of JAX it is run with. JAX 0.11 and later ask for Python 3.12, and the pins
# of requirements.txt, on Python 3.11, are what `make test` runs.
SERIES = {"3.11": "0.10", "3.12": "0.11", "3.13": "0.12"}

# What moves with JAX and Python: kernels, networks, samplers, the step, checkpoints, meshes, and
# commands, whose server imports every module. Laws of schedules and chances are the same anywhere.
# Of what compiles for chips that are not there, what is small: a training step for a GPU is
# hundreds of kernels, and each is a process of ptxas.
QUICK = (
    *("attention/test_checks.py", "attention/test_cudnn.py", "attention/test_tiles.py"),
    *("attention/test_transformations.py", "compilation/test_cost.py"),
    "compilation/test_gpus.py::test_cards_are_those_jax_names_and_cublas_is_counted",
    "compilation/test_gpus.py::test_memory_is_what_jax_takes_of_a_card",
    *("models/test_dit.py", "models/test_llada.py", "models/test_packed.py"),
    *("models/test_segments.py", "sampling/test_unmasking.py"),
    "test_entry_points.py::test_training_leaves_metrics_and_checkpoints",
    "test_entry_points.py::test_samples_hold_text_tokens_and_length",
    "test_interpolant.py::test_a_row_does_not_depend_on_its_batch",
    "test_interpolant.py::test_corrupt_equals_a_loop_over_tokens",
    *("test_posterior.py", "test_rows.py", "training/test_checksums.py"),
    *("training/test_step.py", "training/test_tables.py"),
)
# Of requirements-dev.txt, what these tests need.
TOOLS = (
    *("beartype", "hypothesis", "nvidia-cuda-nvcc", "nvidia-nvvm", "pytest-xdist", "pytest"),
    "safetensors",
)


def interpreter(version: str) -> str | None:
    """Returns the path of a Python, from pyenv or PATH; None if there is none that runs."""
    folders = sorted((pathlib.Path.home() / ".pyenv" / "versions").glob(f"{version}.*"))
    found = [str(folder / "bin" / "python") for folder in reversed(folders)]
    found += [path] if (path := shutil.which(f"python{version}")) else []
    runs = lambda path: subprocess.run([path, "--version"], capture_output=True).returncode == 0  # noqa: E731
    return next((path for path in found if pathlib.Path(path).exists() and runs(path)), None)


def packages(series: str) -> list[str]:
    """Returns what an environment with a series of JAX holds: ranges, but for the tests' tools."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    tools = [line for line in lines if line.partition("==")[0] in TOOLS]
    return [f"jax[tpu]~={series}.0", *setup["options"]["install_requires"].split(), *tools]


def environment(python: str, version: str) -> pathlib.Path:
    """Returns the Python of an environment with a series of JAX, made unless it is there.

    The package itself is not in it, and is taken from the working tree.
    """
    series = SERIES[version]
    folder = CACHE / "flexmdm_jax" / "matrix" / f"python{version}-jax{series}"
    inside, done = folder / "bin" / "python", folder / "installed"
    wanted = packages(series)
    if done.exists() and done.read_text().split("\n") == wanted:
        return inside
    subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *wanted], check=True)
    subprocess.run([*pip, f"jax-cuda13-plugin=={version_of_jax(inside)}"], check=True)
    done.write_text("\n".join(wanted))
    return inside


def version_of_jax(python: pathlib.Path) -> str:
    """Returns the version of JAX that is installed beside a Python."""
    code = "import importlib.metadata; print(importlib.metadata.version('jax'))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout[
        :-1
    ]


def run(python: pathlib.Path) -> tuple[bool, str]:
    """Returns (whether the tests passed, what pytest counted and what they took)."""
    tests = [f"tests/{name}" for name in QUICK]
    workers = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    # What takes longer than ten minutes says where it is.
    told = ("-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=600")
    command = [str(python), "-m", "pytest", *told, *workers, *tests]
    cache = str(python.parents[1] / "xla")
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache}
    times = lambda: os.times()[2:4]  # noqa: E731
    started = times()
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            # Libraries may have something to say behind it.
            last = line.strip() if re.search(r"\d (passed|failed|error)", line) else last
    seconds = sum(after - before for before, after in zip(started, times(), strict=True))
    return process.returncode == 0, f"{last}, {seconds / 60:.1f} minutes of CPU"


def main(versions: list[str]) -> int:
    """Returns 1 if a version failed, and prints a line for each."""
    lines, passed = [], True
    for version in versions or SERIES:
        python = interpreter(version)
        if python is None:
            lines.append(f"Python {version}: not found; install it, with pyenv for example")
            continue
        inside = environment(python, version)
        succeeded, last = run(inside)
        passed &= succeeded
        lines.append(f"Python {version}, JAX {version_of_jax(inside)}: {last}")
    print("\n".join(lines))
    return 0 if passed else 1


if __name__ == "__main__":
    if unknown := [version for version in sys.argv[1:] if version not in SERIES]:
        sys.exit(f"unknown version {unknown[0]}; choose of {', '.join(SERIES)}")
    sys.exit(main(sys.argv[1:]))
