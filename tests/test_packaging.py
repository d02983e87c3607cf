"""The installed package works without the repository beside it."""

import ast
import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import flexmdm_jax

ROOT = pathlib.Path(__file__).parents[1]


# Beside the package and its configs.
OF_THE_SDIST = {
    *("CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md"),
    *("pyproject.toml", "requirements.txt", "setup.cfg"),
}
OF_THE_WHEEL = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
BUILD = "import setuptools.build_meta as b; b.build_{}({!r})"


def _shipped() -> set[pathlib.Path]:
    """Returns the files of the package and its configs."""
    found = [path for name in ("flexmdm_jax", "configs") for path in (ROOT / name).rglob("*.*")]
    # Of Python's own making, or the system's.
    return {path.relative_to(ROOT) for path in found if path.suffix not in {".pyc", ".DS_Store"}}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, pathlib.Path]:
    """The sdist of the repository, and the wheel that is made of nothing but it."""
    source = tmp_path_factory.mktemp("source") / "repository"
    ignored = shutil.ignore_patterns(
        *(".*", "runs", "data", "build", "dist", "wheels", "*.egg-info", "__pycache__")
    )
    shutil.copytree(ROOT, source, ignore=ignored)
    shutil.copytree(ROOT / "flexmdm_jax" / "data", source / "flexmdm_jax" / "data")
    folder, unpacked = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("unpacked")
    _build("sdist", source, folder)
    [sdist] = folder.iterdir()
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    [source] = unpacked.iterdir()
    _build("wheel", source, folder)
    [wheel] = folder.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def _build(what: str, source: pathlib.Path, folder: pathlib.Path) -> None:
    """Builds as pip does without isolation, in a process of its own: it leaves much behind."""
    command = [sys.executable, "-W", "ignore", "-c", BUILD.format(what, str(folder))]
    subprocess.run(command, cwd=source, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> pathlib.Path:
    """An empty folder that the wheel has been installed into, without a network."""
    target = tmp_path_factory.mktemp("target")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    pip += ["--disable-pip-version-check", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(built["wheel"])], check=True)
    return target


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


def test_commands_run_from_anywhere(installed, tmp_path):
    result = _run(installed, tmp_path, "flexmdm_jax.aot", "--help")
    assert f"{installed}/flexmdm_jax/aot.py:\n" in result.stdout, result.stderr
    # The script asks for the package by name; its first line names the Python that installed it.
    script = subprocess.run(
        [installed / "bin" / "flexmdm", "nonsense"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert script.stderr.startswith("error: unknown command 'nonsense'"), script.stderr
    assert script.returncode == 2


def test_the_sdist_holds_what_it_should(built):
    with tarfile.open(built["sdist"]) as archive:
        files = [pathlib.Path(x.name) for x in archive.getmembers() if x.isfile()]
    files = {pathlib.Path(*path.parts[1:]) for path in files}
    files = {path for path in files if path.parts[0] != "flexmdm_jax.egg-info"}
    assert files == _shipped() | {pathlib.Path(name) for name in OF_THE_SDIST}


def test_the_wheel_holds_what_it_should(built):
    with zipfile.ZipFile(built["wheel"]) as archive:
        files = {pathlib.Path(name) for name in archive.namelist()}
        [version] = re.findall(r"^Version: (.+)$", _metadata(archive), re.MULTILINE)
    about = pathlib.Path(f"flexmdm_jax-{version}.dist-info")
    expected = {
        pathlib.Path("flexmdm_jax") / path if path.parts[0] == "configs" else path
        for path in _shipped()
    }
    expected |= {about / name for name in OF_THE_WHEEL} | {about / "licenses" / "LICENSE"}
    assert files == expected
    assert version == flexmdm_jax.__version__


def _metadata(archive: zipfile.ZipFile) -> str:
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return archive.read(name).decode()


def test_what_says_its_version_says_the_same():
    citation = (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == flexmdm_jax.__version__
    assert f"\nversion: {flexmdm_jax.__version__}\n" in citation


def test_what_pages_are_made_of_is_installed(installed, tmp_path):
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
