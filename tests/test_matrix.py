"""The quick part that `make test-matrix` runs elsewhere: it is there, and so is all it imports."""

import ast
import pathlib
import sys

import matrix
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TESTS = pathlib.Path(__file__).parent
OURS = {"flexmdm_jax", "benchmarks", *(path.stem for path in TESTS.rglob("*.py"))}
# Names that packages go by, where they are not those of their modules; what they bring along.
NAMES = {"absl": "absl-py", "orbax": "orbax-checkpoint", "PIL": "pillow", "packaging": "pytest"}


def imports(path):
    """Returns what a file imports when it is read, and so do those of ours beside it."""
    found, files = set(), [path]
    for file in files:  # which grows meanwhile
        for node in ast.parse(file.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in (name.partition(".")[0] for name in names):
                found.add(name)
                files += {*TESTS.rglob(f"{name}.py")} - {*files}
    return found


def test_every_part_is_there():
    for name in matrix.QUICK:
        file, _, test = name.partition("::")
        assert f"def {test}" in (TESTS / file).read_text(), name


def test_all_that_it_imports_is_installed():
    """A test that came to need PyTorch, say, would end the whole run before it began."""
    wanted = {canonicalize_name(Requirement(line).name) for line in matrix.packages("0.12")}
    files = {TESTS / name.partition("::")[0] for name in matrix.QUICK}
    for path in sorted({*files, TESTS / "conftest.py", TESTS / "command_server.py"}):
        for name in imports(path) - OURS - sys.stdlib_module_names:
            assert canonicalize_name(NAMES.get(name, name)) in wanted, f"{path} imports {name}"


def test_an_environment_is_made_anew_when_other_packages_are_asked_for(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(matrix, "CACHE", tmp_path)
    monkeypatch.setattr(matrix, "version_of_jax", lambda python: "0.12.0")
    monkeypatch.setattr(matrix.subprocess, "run", lambda command, check: told.append(command))
    folder = tmp_path / "flexmdm_jax" / "matrix" / "python3.13-jax0.12"
    folder.mkdir(parents=True)
    assert matrix.environment("python", "3.13") == folder / "bin" / "python"
    assert len(told) == 3
    assert told[1][-len(matrix.packages("0.12")) :] == matrix.packages("0.12")
    matrix.environment("python", "3.13")
    assert len(told) == 3
    monkeypatch.setattr(matrix, "packages", lambda series: ["jax", "another"])
    matrix.environment("python", "3.13")
    assert len(told) == 6
