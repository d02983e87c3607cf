"""The references: every field of a config, every public name."""

import dataclasses
import inspect

import pytest
from page_files import ROOT

import flexmdm_jax
from docs.site import api, config_reference
from flexmdm_jax.config import config_to_dict, load_config_file, read_config
from flexmdm_jax.fields import flatten

PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
ENTRIES = [name for page in PAGES for name in api.entries(page.read_text())]
# Every module of these is for users of the library.
PACKAGES = ("evaluation",)
MODULES = ("types", "schedules", "process", "interpolant", "losses", "config", "models.dit")
EXPORTED = ("load", "Request", "model.Model", "sampling", "conformance")


def test_the_config_reference_is_current():
    assert config_reference.PAGE.read_text() == config_reference.page(), "run `make docs`"


def test_the_config_reference_says_something_of_every_field():
    """The fields are those that a config has, found another way."""
    config = read_config(load_config_file(str(ROOT / "configs" / "demo.py")))
    found = {x.path: x for group in config_reference.fields().values() for x in group}
    assert set(found) == set(flatten(config))
    assert all(x.kind and x.comment for x in found.values())
    assert read_config(config_to_dict(config)) == config


def test_defaults_are_those_that_a_config_gets():
    required = {
        x.path for group in config_reference.fields().values() for x in group if not x.default
    }
    assert {"method", "data.path", "optimizer.learning_rate"} < required
    values = {
        "method": "mdm",
        "model": {"hidden_size": 8, "num_layers": 1, "num_heads": 2},
        "data": {"path": "", "max_length": 8},
        "optimizer": {"learning_rate": 0.1},
        "training": {"num_steps": 1, "batch_size": 1},
    }
    config = flatten(read_config(values))
    for group in config_reference.fields().values():
        for field in group:
            if field.default:
                assert eval(field.default) == config[field.path], field.path


def test_comments_belong_to_their_fields():
    @dataclasses.dataclass
    class Example:
        first: int  # behind it
        # Before it,
        # in two lines.
        second: int = 0
        third: int = 0

    source = inspect.cleandoc(inspect.getsource(Example))
    found = config_reference.comments_in(source)
    assert found == {"first": "behind it", "second": "Before it, in two lines.", "third": ""}


def test_the_pages_list_what_is_public():
    wanted = {f"flexmdm_jax.{name}" for name in (*MODULES, *EXPORTED)}
    for package in PACKAGES:
        paths = (ROOT / "flexmdm_jax" / package).glob("[!_]*.py")
        wanted |= {f"flexmdm_jax.{package}.{path.stem}" for path in paths}
    assert not wanted - set(ENTRIES), "add a line for each to a page of docs/api/"
    assert len(ENTRIES) == len(set(ENTRIES))


def test_each_page_is_entries_and_prose_alone():
    """A line that is meant as an entry and is none would stay a line."""
    for page in PAGES:
        assert page.read_text().count("* [`flexmdm_jax") == len(api.entries(page.read_text()))


@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_public_has_a_docstring(name):
    found = api.resolve(name)
    assert inspect.getdoc(found)
    if inspect.ismodule(found):
        public = dict(api.public_names(found))
        assert public
        for inner, value in public.items():
            assert inspect.getdoc(value), f"{name}.{inner}"
            assert ".. automodule:: " + name in api.expanded(f"* [`{name}`](x): y")


def test_what_the_package_exports_is_public():
    for name in ("load", "Request"):
        assert api.resolve(f"flexmdm_jax.{name}") is getattr(flexmdm_jax, name)


def test_constants_of_packages_are_named_on_their_pages():
    """Autodoc writes out classes and functions; data has no docstring."""
    for name, page in (("sampling", "sampling"), ("conformance", "conformance")):
        module = api.resolve(f"flexmdm_jax.{name}")
        documented = dict(api.public_names(module))
        text = (ROOT / "docs" / "api" / f"{page}.md").read_text()
        for constant in set(module.__all__) - set(documented):
            assert f"`{constant}`" in text, constant


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("(1 - t) |log(1 - t)|, x*y", r"(1 - t) \|log(1 - t)\|, x\*y"),
        ("`a*b` and *c", r"`a*b` and \*c"),
        ("  * a point, of num_ rows", r"  * a point, of num\_ rows"),
        ("x_t stays", "x_t stays"),
    ],
)
def test_docstrings_mean_what_they_say(line, expected):
    assert api.restructured([line]) == [expected]


def test_types_are_shown_as_they_are_written():
    from flexmdm_jax.types import Batch

    shown = "(tokens: jaxtyping.Int[jaxlib._jax.Array, 'b l'] | jaxtyping.Int[ndarray, 'b l'])"
    assert api.written(shown) == "(tokens: Int[HostOrDevice, 'b l'])"
    assert "HostOrDevice" in inspect.getsource(Batch)
