"""The notebook runs from its first cell to its last, and is shown with what that printed."""

import json
import re

import matplotlib
import numpy as np
import pytest
from page_files import ROOT, links

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def names():
    """What the cells define, run one after the other, after less training and with fewer words."""
    matplotlib.use("agg")
    found = {}
    for number, cell in enumerate(CODE):
        code = "".join(cell["source"])
        code = code.replace("STEPS, NUM_WORDS = 1200, 256", "STEPS, NUM_WORDS = 60, 64")
        code = code.replace("NUM = 2000", "NUM = 60")
        exec(compile(code, f"cell {number}", "exec"), found)
    return found


def test_it_runs_and_fills_between_what_is_given(names):
    assert names["STEPS"] == names["NUM"] == 60
    assert np.mean(names["values"][-10:]) < np.mean(names["values"][:10])
    for tokens, length in zip(names["filled"].tokens, names["filled"].lengths, strict=True):
        assert names["text"](tokens[:length])[:: length - 1] == "sn"


def test_what_it_takes_for_exact_is_the_posterior(names):
    """Counted by hand: ▒on late is `son`, of which nothing is missing."""
    on = [names["vocabulary"].mask, *names["ids"]("on"), names["vocabulary"].end]
    # Of the shapes that the notebook has, which are compiled already.
    row, late = names["jnp"].array([on, on]), names["jnp"].array([[0.999999]] * 2)
    _, (f, gaps) = names["answers"](row, names["jnp"].ones_like(row), late)
    np.testing.assert_allclose(f[0, 0], [letter == "s" for letter in names["LETTERS"]], atol=1e-4)
    np.testing.assert_allclose(gaps[0], 0, atol=1e-4)


def test_it_is_shown_as_it_ran():
    """Every cell's output is there, of one run from top to bottom, and holds no complaint."""
    assert [cell["execution_count"] for cell in CODE] == [*range(1, len(CODE) + 1)]
    kinds = [output["output_type"] for cell in CODE for output in cell["outputs"]]
    assert set(kinds) <= {"stream", "display_data"}
    printed = [
        "".join(output["text"]) for cell in CODE for output in cell["outputs"] if "text" in output
    ]
    assert len(printed) == sum("print(" in "".join(cell["source"]) for cell in CODE)
    assert not re.search(r"Warning|Error|/home|/root|/tmp", "".join(printed))
    assert any("image/png" in output.get("data", {}) for x in CODE for output in x["outputs"])
    assert NOTEBOOK.stat().st_size < 300_000


def test_its_links_lead_somewhere(tmp_path):
    page = tmp_path / "notebook.md"
    text = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown"]
    page.write_text("\n\n".join(text))
    for link in links(page):
        assert (NOTEBOOK.parent / link).resolve().exists(), link
