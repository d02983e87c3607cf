"""The installed package works without the repository beside it."""

import ast
import configparser
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
    """A folder that `pip install .` has put the package into."""
    source = tmp_path_factory.mktemp("source") / "repository"
    ignored = shutil.ignore_patterns(".venv", ".git", "runs", "data", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=_only_at_root(ignored))
    target = tmp_path_factory.mktemp("target")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    return target


def _only_at_root(ignore):
    return lambda folder, names: ignore(folder, names) if pathlib.Path(folder) == ROOT else []


def _run(installed, cwd, *arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )


def test_shipped_configs_are_found_from_anywhere(installed, tmp_path):
    result = _run(
        installed, tmp_path, "flexmdm_jax.train", "--config=configs/owt_mdm.py", "--workdir=w"
    )
    assert "no prepared dataset in data/openwebtext" in result.stderr, result.stderr
    assert result.returncode == 2


def test_every_module_is_installed(installed):
    modules = {path.relative_to(ROOT) for path in (ROOT / "flexmdm_jax").rglob("*.py")} | {
        pathlib.Path("flexmdm_jax") / path.relative_to(ROOT)
        for path in (ROOT / "configs").glob("*.py")
    }
    missing = [path for path in modules if not (installed / path).is_file()]
    assert not missing


def test_what_pages_are_made_of_is_installed(installed, tmp_path):
    modules = {".py", ".pyc"}
    found = [path for path in (ROOT / "flexmdm_jax").rglob("*.*") if path.suffix not in modules]
    assert {path.suffix for path in found} == {".js", ".css", ".html"}
    assert not [path for path in found if not (installed / path.relative_to(ROOT)).is_file()]
    code = (
        "from flexmdm_jax.generation.trace.page import page; print(page([], lambda token: b'', 0))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert result.stdout.startswith("<!doctype html>"), result.stderr


def _setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup


def _pins() -> dict[str, Requirement]:
    """Returns the requirements of requirements.txt by name."""
    lines = map(Requirement, (ROOT / "requirements.txt").read_text().split())
    return {canonicalize_name(line.name): line for line in lines}


def test_ranges_hold_what_is_tested():
    """The oldest of each is the one that is pinned, and nothing is asked for that is not pinned."""
    ranges = map(Requirement, _setup()["options"]["install_requires"].split())
    ranges = {canonicalize_name(line.name): line for line in ranges}
    pins = _pins()
    assert set(ranges) == set(pins)
    for name, pin in pins.items():
        [exact] = pin.specifier
        assert exact.operator == "=="
        assert ranges[name].specifier.contains(exact.version), name
    for version in ("0.10.2", "0.11.2", "0.12.0"):
        assert ranges["jax"].specifier.contains(version)
    assert not ranges["jax"].specifier.contains("0.13.0")


def test_what_the_package_imports_is_pinned():
    """Every third-party import is in requirements.txt or an extra, with a version."""
    extras = [
        Requirement(x) for line in _setup()["options.extras_require"].values() for x in line.split()
    ]
    assert all("==" in str(line.specifier) for line in extras if line.name != "jax")
    pinned = {name.replace("-", "_") for name in _pins()}
    pinned |= {canonicalize_name(line.name).replace("-", "_") for line in extras}
    names = {"absl": "absl_py", "orbax": "orbax_checkpoint", "PIL": "pillow"}
    names |= {"tensorboardX": "tensorboardx"}
    for path in [*(ROOT / "flexmdm_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                if top not in sys.stdlib_module_names and top != "flexmdm_jax":
                    assert names.get(top, top) in pinned, f"{path} imports {top}"
