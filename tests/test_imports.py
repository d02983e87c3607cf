"""Imports point one way: types → schedules → process → interpolant → … → entry points."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = "flexmdm_jax"
# A module may import what stands in an earlier line, and its own folder. Modules of one line do
# not know each other.
LAYERS = [
    {"types", "errors", "ranges"},
    {"schedules", "fields", "files", "foreign", "chips", "compiled", "progress"},
    {"hosts", "partial", "rows"},
    {"process"},
    {"interpolant", "posterior", "attention", "config"},
    {"losses", "sampling", "sharding", "overrides"},
    {"data", "models", "conformance"},
    {"generation", "conversion"},
    {"training"},
    {"model"},
    {"evaluation", "compilation", "serving", "recipes"},
    {
        *("cli", "options", "code_options"),
        *("train", "sample", "serve", "evaluate", "prepare", "convert", "aot", "quickstart"),
        "harness",
    },
]
# The rooms of data/, in the same sense; a room may import its own files.
ROOMS = [{"sources", "tokenizers"}, {"storage"}, {"preparation", "tasks"}, {"batches"}]
# What the entry points share, or are made of.
SHARED = ("cli", "options", "code_options")
ENTRY_POINTS = LAYERS[-1]
MAY_IMPORT_MODELS = {"training/state.py"}
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
ROOM_LEVELS = {name: level for level, names in enumerate(ROOMS) for name in names}
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


def name_of(path: pathlib.Path) -> str:
    """Returns the first part of a module's name below the package."""
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


def imports_of(source: str, package: str) -> set[str]:
    """Returns the dotted names a source imports, wherever in the file, relative ones resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def file_imports(path: pathlib.Path) -> set[str]:
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    return imports_of(path.read_text(), package)


def own_imports(path: pathlib.Path) -> set[str]:
    """Returns the first parts of what a file imports from the package."""
    parts = [name.split(".") for name in file_imports(path)]
    return {p[1] for p in parts if p[0] == PACKAGE and len(p) > 1 and p[1] != "__version__"}


def violation(name: str, imported: str, levels: dict[str, int] = LEVELS) -> bool:
    if imported == name:
        return False
    if name in ENTRY_POINTS and imported in SHARED:
        return False
    return levels[imported] >= levels[name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_layers(path):
    name = name_of(path)
    if name in ("__init__", "__main__"):
        return
    assert name in LEVELS, f"{path} is in no layer: add {name!r} to LAYERS"
    for imported in own_imports(path):
        assert imported in LEVELS, f"{path} imports {imported!r}, which is in no layer"
        assert not violation(name, imported), f"{path} must not import {PACKAGE}.{imported}"


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.parent.parent == ROOT / PACKAGE / "data"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_imports_follow_the_rooms_of_data(path):
    room = path.parent.name
    assert room in ROOM_LEVELS, f"{path} is in no room: add {room!r} to ROOMS"
    data = [name.split(".")[2:] for name in file_imports(path) if f"{PACKAGE}.data." in name]
    for imported in {parts[0] for parts in data}:
        assert imported in ROOM_LEVELS, f"{path} imports data.{imported}, which is no room"
        wrong = violation(room, imported, ROOM_LEVELS)
        assert not wrong, f"{path} must not import {PACKAGE}.data.{imported}"


def test_data_is_all_in_rooms():
    inside = (ROOT / PACKAGE / "data").iterdir()
    assert {path.name for path in inside if path.name != "__pycache__"} == {
        "__init__.py",
        *ROOM_LEVELS,
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_networks_are_known_at_the_edge_only(path):
    name, imported = name_of(path), file_imports(path)
    inside = str(path.relative_to(ROOT / PACKAGE))
    if name != "models":
        assert not any(i.startswith("flax.linen") for i in imported), f"{path} imports flax.linen"
    edge = name in {*ENTRY_POINTS, "models", "conversion"} or inside in MAY_IMPORT_MODELS
    if not edge:
        assert "models" not in own_imports(path), f"{path} must not import {PACKAGE}.models"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_http_is_known_to_the_server_only(path):
    if name_of(path) != "serving":
        tops = {name.partition(".")[0] for name in file_imports(path)}
        assert not tops & {"starlette", "uvicorn"}, f"{path} imports {tops}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_harness_is_imported_by_its_own_command_only(path):
    """It is an extra, and takes long."""
    if path.name != "harness.py":
        names = file_imports(path)
        assert not any(x.startswith(("lm_eval", f"{PACKAGE}.evaluation.harness")) for x in names)


def test_the_design_page_names_all_that_lies_in_the_package():
    _, layout, *_ = (ROOT / "docs" / "design.md").read_text().split("```")
    names = {name_of(path) for path in FILES}
    assert {x for x in names if not re.search(rf"\b{x}(?:/|\.py\b)", layout)} <= {"__init__"}


def test_the_checks_see_every_way_to_import():
    source = """
import flexmdm_jax.losses
from flexmdm_jax import sampling as s
from flexmdm_jax.models.dit import DiT
from .. import schedules
from ..data.tasks import maze
from . import step
def late():
    import flax.linen as nn
"""
    assert imports_of(source, "flexmdm_jax.training") == {
        "flexmdm_jax.losses",
        "flexmdm_jax.sampling",
        "flexmdm_jax.models.dit.DiT",
        "flexmdm_jax.schedules",
        "flexmdm_jax.data.tasks.maze",
        "flexmdm_jax.training.step",
        "flax.linen",
    }


@pytest.mark.parametrize(
    ("name", "imported", "wrong"),
    [
        ("types", "schedules", True),
        ("schedules", "types", False),
        ("losses", "sampling", True),
        ("losses", "training", True),
        ("training", "losses", False),
        ("training", "evaluation", True),
        ("evaluation", "training", False),
        ("train", "training", False),
        ("train", "sample", True),
        ("train", "cli", False),
        ("evaluation", "train", True),
    ],
)
def test_layers_forbid_what_they_should(name, imported, wrong):
    assert violation(name, imported) is wrong
