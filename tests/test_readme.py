"""The README's example runs as printed."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_library_example_runs_as_printed(capsys):
    _, code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(code.splitlines()) < 30, "half a screen"
    names = {}
    exec(compile(code, str(README), "exec"), names)
    assert np.isfinite(names["loss"])
    assert names["bound"].shape == (2,)
    assert names["samples"].tokens[:, :2].tolist() == [[1, 2], [1, 2]]
    assert not (names["samples"].tokens == 10).any()
    assert capsys.readouterr().out
