"""The installed package works without the repository beside it."""

import ast
import configparser
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

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


def test_what_the_package_imports_is_pinned():
    """Every third-party import is in requirements.txt or an extra, with a version."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"].values()
    pinned = {
        line.split("==")[0].lower().replace("-", "_"): line
        for lines in [(ROOT / "requirements.txt").read_text(), *extras]
        for line in lines.split()
    }
    assert all("==" in line for line in pinned.values())
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
