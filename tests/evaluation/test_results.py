"""A folder of results: what is not a number is missing in each of its forms."""

import json
import math
import re

import numpy as np

from flexmdm_jax.evaluation.comparison import Examples, Run
from flexmdm_jax.evaluation.request import Report, Table
from flexmdm_jax.evaluation.results import Results


def test_what_is_no_number_is_null_in_files_and_a_dash_for_readers(tmp_path, capsys):
    right = np.array([1.0, math.nan, 0.0])
    examples = {Run(label): Examples.of_successes(right) for label in "AB"}
    rows = {"A": {"success": math.nan, "calls": 4.0}}
    report = Report(rows, [Table("", {"success": "correct", "calls": "calls"})], examples=examples)
    Results(tmp_path, False, {"steps": 4}, "B").write("title", {}, lambda figures: report)
    told = capsys.readouterr().out
    [line] = [line for line in told.splitlines() if line.startswith("A  ")]
    assert line.split() == ["A", "-", "4.000"]
    page = (tmp_path / "report.html").read_text()
    for shown in (told, page):
        assert not re.search(r"\bnan\b", shown, re.IGNORECASE)
    assert json.loads((tmp_path / "evaluation.json").read_text())["A"]["success"] is None
    [compared] = json.loads((tmp_path / "comparison.json").read_text()).values()
    assert compared.pop("examples") == 3
    assert set(compared.values()) == {None}
