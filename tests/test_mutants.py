"""The faults of mutants.py fit the code as it is."""

import ast
import pathlib
import re

import pytest
from mutants import MUTANTS, ROOT


def test_there_are_faults_of_every_part():
    assert len(MUTANTS) >= 40
    parts = {mutant.file for mutant in MUTANTS}
    assert {"schedules.py", "interpolant.py", "losses.py", "posterior.py"} <= parts
    assert {"sampling/unmasking.py", "sampling/insertions.py", "data/batches/packing.py"} <= parts


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda x: f"{x.file}: {x.old.split(chr(10))[0]}")
def test_a_fault_fits_the_code(mutant):
    text = (ROOT / "flexmdm_jax" / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    faulty = text.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(faulty)) != ast.dump(ast.parse(text))
    file, which = mutant.tests
    names = re.findall(r"^def (test_\w+)", pathlib.Path(ROOT / "tests" / file).read_text(), re.M)
    assert any(part in name for name in names for part in which.split(" or "))
