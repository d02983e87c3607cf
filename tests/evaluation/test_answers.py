"""Numbers that answers end in: exact, however they are written, and none where none stands."""

import gzip
import json
import os
import pathlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexmdm_jax.evaluation.answers import flexible_number, strict_number

DATA = pathlib.Path(os.environ.get("FLEXMDM_DATA_DIR", "")) / "gsm8k"
HALF = Fraction(1, 2)

# What follows `####`, and the number that it is.
MARKED = [
    ("18", 18),
    ("18.", 18),
    ("18.00", 18),
    ("1,200", 1200),
    ("1,00,000", 100_000),
    ("109,200,000", 109_200_000),
    ("1 200", 1200),
    ("1\u202f200\u202f000", 1_200_000),
    ("$18", 18),
    ("\\$18", 18),
    ("$1,200.50", Fraction(2401, 2)),
    ("-$3", -3),
    ("$-3", -3),
    ("−3", -3),
    ("－３", -3),
    ("- 3", -3),
    ("+5", 5),
    (".5", HALF),
    ("18 dollars", 18),
    ("18km", 18),
    ("18%", 18),
    ("18 (6 apples a day)", 18),
    ("**18**", 18),
    ("\\boxed{18}", 18),
    ("3/4", Fraction(3, 4)),
    ("3⁄4", Fraction(3, 4)),
    ("1 1/2 cups", 3 * HALF),
    ("-1 1/2", -3 * HALF),
    ("1½", 3 * HALF),
    ("½", HALF),
    ("$\\frac{3}{4}$", Fraction(3, 4)),
    ("1.2e3", 1200),
    ("2E-1", Fraction(1, 5)),
    ("1.2 × 10^3", 1200),
    ("5 \\times 10^{2}", 500),
    ("１，２００", 1200),
    ("0.1", Fraction(1, 10)),
    ("1" + 400 * "0", 10**400),
    ("1e400", 10**400),
    # The last one counts.
    ("12 #### 13", 13),
    ("12\nNo.\n#### 13", 13),
]
UNMARKED = [
    "",
    "eighteen",
    "the answer is 18",
    "x = 18",
    "x18",
    "\n18",
    "nan",
    "inf",
    "-",
    "$",
    "12 #### none",
    "12 ####",
    "12 13",
    "12, 13",
    "12+3",
    "12 = 12",
    "12-13",
    "5:30",
    "10^3",
    "3/4/2024",
    "3/0",
    "1.2.3",
    "1,2345",
    "18,5",
    "1 000/3",
    "0x1F",
    "H2O",
    "1e999999999",
    "9" * 5000,
    "²",
]


@pytest.mark.parametrize(("text", "number"), MARKED)
def test_what_follows_the_last_mark_counts(text, number):
    found = strict_number(f"He has 7 of 9.\n#### {text}")
    assert found == number
    assert isinstance(found, Fraction)


@pytest.mark.parametrize("text", UNMARKED)
def test_no_number_is_none_though_others_stand_before(text):
    assert strict_number(f"He has 7 of 9.\n#### {text}") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so $\\boxed{18}$ it is, of 20", 18),
        ("\\boxed{12} or \\boxed{\\$1,300}", 1300),
        ("\\boxed{18\\text{ dollars}}", 18),
        ("\\boxed{\\frac{1}{2}}", HALF),
        ("\\boxed{-3}", -3),
        ("#### 4 and \\boxed{5}", 4),
        ("\\boxed{x = 18}", None),
        ("\\boxed{}", None),
        ("18", None),
        ("", None),
    ],
)
def test_a_box_counts_where_no_mark_stands(text, number):
    assert strict_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 18.", 18),
        ("The answer is $1,200.50, of 7", 7),
        ("#### 18 dollars for 3 days", 3),
        ("12 #### none", 12),
        ("12-3", 3),
        ("it is -3.", -3),
        ("(-$3)", -3),
        ("12 - 3 = 9", 9),
        ("half of it, ½", HALF),
        ("3/4", Fraction(3, 4)),
        ("1 1/2 cups", 3 * HALF),
        ("18 of H2O, x3, v1.2 and a_4", 18),
        ("答案是18元", 18),
        ("12 or 3/0", None),
        ("nan, inf and ²", None),
        ("", None),
    ],
)
def test_flexibly_the_last_number_anywhere_counts(text, number):
    assert flexible_number(text) == number


@given(number=st.fractions(-(10**9), 10**9), digits=st.integers(0, 6))
def test_numbers_come_back_in_every_notation(number, digits):
    whole, decimal = int(number), f"{float(number):.{digits}f}"
    spellings = {str(number): number, f"{whole:,}": whole, decimal: Fraction(decimal)}
    for spelling, value in spellings.items():
        assert strict_number(f"1 of 2 #### {spelling} km") == value
        assert flexible_number(f"1 of 2: {spelling}.") == value


@given(st.text("0123456789.,-/$ #e^x{}\\½a\n", max_size=60))
def test_nothing_that_may_be_written_raises(text):
    for found in (strict_number(text), flexible_number(text)):
        assert found is None or isinstance(found, Fraction)


@pytest.mark.skipif(not DATA.is_dir(), reason="FLEXMDM_DATA_DIR holds no gsm8k")
@pytest.mark.parametrize(("name", "count"), [("train", 7473), ("test", 1319)])
def test_every_true_answer_is_read_as_it_stands_in_the_file(unchecked, name, count):
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt") as file:
        answers = [json.loads(line)["answer"] for line in file]
    assert len(answers) == count
    for answer in answers:
        number = int(answer.split("####")[1].replace(",", ""))
        assert strict_number(answer) == number, answer
        assert flexible_number(answer) == number, answer
