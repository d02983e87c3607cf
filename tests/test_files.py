"""JSON that every reader can read, written in one place."""

import ast
import json
import pathlib

import numpy as np
import pytest

from flexmdm_jax.files import json_bytes, json_text
from flexmdm_jax.training.logging import MetricsWriter

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "flexmdm_jax"
WRITE_THEIR_OWN = {
    # What it makes is handed to a library.
    "data/tokenizers/huggingface.py",
    # Messages between the processes of a sandbox, which have the standard library alone.
    "evaluation/sandbox.py",
    "evaluation/confinement/warden.py",
    "evaluation/confinement/wire.py",
}


def strictly(text):
    """Returns what a reader makes of JSON that knows no NaN and no Infinity."""

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_what_is_not_finite_is_null(number):
    values = {"a": number, "b": [1.5, (number, {"c": number})], "d": "NaN", "e": 1, "f": True}
    assert strictly(json_text(values)) == {
        "a": None,
        "b": [1.5, [None, {"c": None}]],
        "d": "NaN",
        "e": 1,
        "f": True,
    }


def test_what_is_finite_is_as_json_has_it():
    values = {"a": [0.1, -1e300, "é"], "b": {"c": None}}
    assert json_text(values, indent=2) == json.dumps(values, indent=2)
    assert json_text(values, ensure_ascii=False) == json.dumps(values, ensure_ascii=False)
    assert json_bytes(values) == json.dumps(values, ensure_ascii=False).encode()
    assert json_bytes(["é", "\ud800"]) == '["é", "\\ud800"]'.encode()


def test_metrics_that_are_not_finite_are_null(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(3, {"loss": float("nan"), "eval/perplexity": float("inf"), "lr": 0.5})
    writer.close()
    line = {"step": 3, "loss": None, "eval/perplexity": None, "lr": 0.5}
    assert strictly((tmp_path / "metrics.jsonl").read_text()) == line


def writes_json(source):
    """Returns whether a source names json.dump or json.dumps, or imports one of them."""
    tree, writers = list(ast.walk(ast.parse(source))), {"dump", "dumps"}
    attributes = [node for node in tree if isinstance(node, ast.Attribute)]
    imports = [node for node in tree if isinstance(node, ast.ImportFrom) and node.module == "json"]
    imported = {alias.name for node in imports for alias in node.names}
    named = {node.attr for node in attributes if getattr(node.value, "id", None) == "json"}
    return bool((named | imported) & writers)


def test_json_is_written_in_one_place():
    files = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")}
    assert writes_json(files.pop("files.py").read_text())
    assert {
        name for name, path in files.items() if writes_json(path.read_text())
    } <= WRITE_THEIR_OWN


@pytest.mark.parametrize(
    "source", ["import json\njson.dumps(1)", "from json import dump", "x = json.dumps"]
)
def test_every_way_to_write_json_is_seen(source):
    assert writes_json(source)
    assert not writes_json("import json\njson.loads('1')")
