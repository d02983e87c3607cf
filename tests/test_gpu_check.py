"""The check of a GPU, on a CPU: it reaches every section, says what is wrong, and goes on."""

import dataclasses
import json
import math
import os
import re
import time

import jax
import numpy as np
import pytest
from commands import ROOT, refuse, run
from effort import either

from benchmarks import gpu_check, length_laws
from benchmarks.gpu_sections import agreement, attention_values, demo, running
from benchmarks.gpu_sections.registry import NAMES, SECTIONS
from benchmarks.gpu_sections.report import Report
from benchmarks.gpu_sections.section import Context, Row, Section
from benchmarks.gpu_sections.sizes import SIZES
from flexmdm_jax.attention.backends import BACKENDS
from flexmdm_jax.errors import UserError

TINY = SIZES["tiny"]
# Of each kind of section one.
RUN = either(("ceilings", "attention-values", "agreement", "owt-packed", "torch-sdpa"), NAMES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The command on a CPU: (its result, its JSON)."""
    out = tmp_path_factory.mktemp("check")
    # However slow the machine is, nothing is skipped.
    sections = f"--only={','.join(RUN)}"
    arguments = ("--sizes=tiny", "--noisolate", "--minutes=1000", sections, f"--out={out}")
    result = run("benchmarks.gpu_check", *arguments)
    return result, json.loads((out / "gpu_check.json").read_text())


def test_every_section_passes_on_a_cpu(whole):
    result, found = whole
    assert result.returncode == 0, result.stdout + result.stderr
    assert tuple(found["sections"]) == RUN
    for name, section in found["sections"].items():
        assert section["status"] == "passed", (name, section)
        assert section["rows"], name


def test_the_table_has_every_row(whole):
    result, found = whole
    printed = result.stdout.splitlines()
    for name, section in found["sections"].items():
        assert any(line.startswith(f"{name}: ") for line in printed)
        assert any(re.match(rf"{name} +passed in", line) for line in printed)
        for row in section["rows"]:
            assert any(line.startswith(f"| {name} | {row['name']} |") for line in printed)


def test_what_needs_a_gpu_says_so(whole):
    _, found = whole
    rows = {row["name"]: row for section in found["sections"].values() for row in section["rows"]}
    silent = [row for row in rows.values() if not row["figures"]]
    assert silent
    assert all("needs a GPU" in row["note"] for row in silent)
    for name in ("cudnn", "pallas_gpu"):
        assert rows[name]["passed"] is None


def test_throughputs_come_with_their_share_of_the_measured_product(whole):
    _, found = whole
    owt = [name for name in RUN if name.startswith("owt-")]
    assert owt
    [ceiling] = [
        row["figures"]["TFLOP/s"]
        for row in found["sections"]["ceilings"]["rows"]
        if "product" in row["name"]
    ]
    for name in owt:
        [row] = found["sections"][name]["rows"]
        figures = row["figures"]
        [share] = (value for key, value in figures.items() if key.startswith("MFU"))
        assert share == pytest.approx(100 * figures["needed TFLOP/s"] / ceiling)
        assert min(value for value in figures.values()) > 0


# Sections that stand in for those of the check; a process of its own imports them by name.
def good(context: Context):
    """Yields a row."""
    del context
    yield Row("good", {"ms": 1.0}, passed=True)


def raising(context: Context):
    """Yields a row, then fails."""
    yield from good(context)
    raise ValueError("a planted failure\nof two lines")


def refusing(context: Context):
    """Yields nothing, for a user can mend it."""
    del context
    raise UserError("mend it")
    yield


def wrong(context: Context):
    """Yields a row that is not as it has to be."""
    del context
    yield Row("bad", {"error": 9.0}, passed=False)


def crashing(context: Context):
    """Yields a row and takes its process along."""
    yield from good(context)
    os._exit(9)


def endless(context: Context):
    """Yields nothing, ever."""
    del context
    while True:
        time.sleep(3600)
    yield


def _check(tmp_path, *functions, run=running.here, seconds=1e6):
    sections = [Section(fn.__name__, 1.0, fn) for fn in functions]
    path = tmp_path / "gpu_check.json"
    report = Report.of(path, {}, tuple(section.name for section in sections))
    gpu_check.check(sections, TINY, report, run, seconds)
    return report, json.loads(path.read_text())["sections"]


def test_a_section_that_fails_is_told_and_the_others_go_on(tmp_path, capsys):
    report, found = _check(tmp_path, raising, refusing, wrong, good)
    assert report.failed
    assert {name: section["status"] for name, section in found.items()} == {
        "raising": "failed",
        "refusing": "failed",
        "wrong": "failed",
        "good": "passed",
    }
    assert found["raising"]["error"] == "ValueError: a planted failure"
    assert "raise ValueError" in found["raising"]["traceback"]
    assert [row["name"] for row in found["raising"]["rows"]] == ["good"]
    assert found["refusing"]["error"] == "mend it"
    assert "bad" in found["wrong"]["error"]
    printed = capsys.readouterr().out
    assert "failed in 0 s: ValueError: a planted failure\n" in printed
    assert "Traceback" not in printed


def test_all_that_is_known_is_on_the_disk_at_any_time(tmp_path):
    seen = []

    def looking(context: Context):
        """Yields what it finds on the disk."""
        del context
        yield Row("first")
        seen.append(json.loads((tmp_path / "gpu_check.json").read_text())["sections"])

    _check(tmp_path, good, looking, wrong)
    [sections] = seen
    assert {name: section["status"] for name, section in sections.items()} == {
        "good": "passed",
        "looking": "waiting",
        "wrong": "waiting",
    }
    assert [row["name"] for row in sections["looking"]["rows"]] == ["first"]


def test_a_section_without_time_is_skipped_and_no_failure(tmp_path, capsys):
    report, found = _check(tmp_path, raising, good, seconds=0.5)
    assert {section["status"] for section in found.values()} == {"skipped"}
    assert not report.failed
    assert "skipped: takes 1 s and 0 s are left; raise --minutes" in capsys.readouterr().out


def test_a_section_that_crashes_ends_alone(tmp_path):
    """It has what time it needs: a process takes long to begin on a busy machine."""
    found = {}
    for fn in (crashing, good):
        outcome = running.outcome_of(
            running.apart, Section(fn.__name__, 1.0, fn), Context(TINY), 600.0, print
        )
        found[fn.__name__] = outcome
    assert found["crashing"].status == "failed"
    assert "its process ended with status 9" in found["crashing"].error
    assert found["good"].status == "passed"


def test_a_section_that_hangs_is_ended(tmp_path):
    [failure] = running.apart(Section("endless", 1.0, endless), Context(TINY), 0.01)
    assert failure == running.Failure("stopped", "stopped after 0 s")


def test_no_section_takes_a_cpu_for_the_card():
    """Each says so at once, where a CPU would take hours."""
    for section in SECTIONS:
        rows = running._with_devices(section)(Context(SIZES["full"]))
        with pytest.raises(UserError, match=r"finds no GPU here"):
            next(rows)


@pytest.fixture
def planted(monkeypatch):
    """Returns what puts a backend in the place of xla; heads are of one kind."""
    heads = {"heads of 64": attention_values.Heads(2, 2, 64)}
    monkeypatch.setattr(attention_values, "HEADS", heads)
    attention_values._program.cache_clear()

    def plant(attend):
        monkeypatch.setitem(BACKENDS, "xla", dataclasses.replace(BACKENDS["xla"], attend=attend))

    yield plant
    attention_values._program.cache_clear()


LAYOUTS = attention_values.layouts(3, 96)
right = BACKENDS["xla"].attend


def _forgets_the_mask(q, k, v, segment_ids):
    out = right(q, k, v, jax.numpy.ones_like(segment_ids))
    return jax.numpy.where((segment_ids > 0)[:, :, None, None], out, 0)


def _forgets_segments(q, k, v, segment_ids):
    return right(q, k, v, jax.numpy.minimum(segment_ids, 1))


def _fills_padding(q, k, v, segment_ids):
    return right(q, k, v, segment_ids) + (segment_ids == 0)[:, :, None, None].astype(q.dtype)


@jax.custom_vjp
def _scaled(x):
    return x


_scaled.defvjp(lambda x: (x, None), lambda _, g: (1.05 * g,))


def _wrong_gradient(q, k, v, segment_ids):
    return right(q, _scaled(k), v, segment_ids)


def test_attention_as_it_is_passes_everywhere(planted):
    for label, layout in LAYOUTS.items():
        row = attention_values.compare("xla", label, layout)
        assert row.passed, row


@pytest.mark.parametrize(
    ("attend", "label", "note"),
    [
        (_forgets_the_mask, "uniform lengths", "out is off"),
        (_forgets_segments, "packed rows", "out is off"),
        (_fills_padding, "an empty row", "out is off"),
        (_wrong_gradient, "full rows", "dk is off"),
    ],
)
def test_attention_with_a_planted_error_does_not(planted, attend, label, note):
    planted(attend)
    row = attention_values.compare("xla", label, LAYOUTS[label])
    assert row.passed is False
    assert note in row.note
    assert ("out" in row.note) == ("out" in note)


def test_a_backend_that_raises_is_wrong(planted):
    def broken(q, k, v, segment_ids):
        raise RuntimeError("no kernel image")

    planted(broken)
    row = attention_values.compare("xla", "full rows", LAYOUTS["full rows"])
    assert row.passed is False
    assert "heads of 64: no kernel image" in row.note


def test_layouts_are_what_they_are_called():
    for label, layout in LAYOUTS.items():
        ids = layout.segment_ids
        several = ids.max(axis=1) > 1
        assert layout.packed == several.all() == several.any() == (label == "packed rows")
        assert (ids > 0).all() == (label == "full rows")
        assert (ids == 0).all(axis=1).any() == (label == "an empty row")
        assert length_laws.floor(ids) > 0


def test_plain_attention_is_attention_of_each_segment_alone():
    ids = LAYOUTS["packed rows"].segment_ids
    q, k, v = jax.random.normal(jax.random.key(0), (3, *ids.shape, 2, 8))
    found = attention_values.plain_attention(q, k, v, ids)
    for row, segment in {(r, x) for r in range(len(ids)) for x in ids[r] if x}:
        slots = np.flatnonzero(ids[row] == segment)
        for head in range(2):
            x, y, z = (np.asarray(a[row, slots, head], np.float64) for a in (q, k, v))
            weights = np.exp(x @ y.T / np.sqrt(8))
            expected = weights / weights.sum(1, keepdims=True) @ z
            np.testing.assert_allclose(found[row, slots, head], expected, atol=1e-5)


@dataclasses.dataclass
class Told:
    """A step that answers what it is told to."""

    loss: float
    grads: tuple

    def state(self):
        return None

    def batch(self):
        return None

    def metrics(self, state, batch):
        return {"loss": self.loss, "grad_norm": 1.0}

    def gradient(self, state, batch, dtype):
        return [np.array(leaf) for leaf in self.grads]


REFERENCE = Told(2.0, ([3.0, 4.0], [[0.5]]))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(2.0, True), (2.00001, True), (1.99997, False), (-2.0, False), (math.nan, False)],
)
def test_losses_agree_to_a_hundred_thousandth(loss, expected):
    other = dataclasses.replace(REFERENCE, loss=loss)
    assert agreement.Pair(REFERENCE, other).losses("x").passed is expected


@pytest.mark.parametrize(
    ("grads", "expected"),
    [
        # As long as they like, but of one direction.
        (([6.0, 8.0], [[1.0]]), True),
        (([3.01, 4.0], [[0.5]]), True),
        (([3.0, 4.0], [[-0.5]]), False),
        (([4.0, 3.0], [[0.5]]), False),
        (([3.0, math.nan], [[0.5]]), False),
        (([0.0, 0.0], [[0.0]]), False),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_gradients_agree_in_direction(grads, expected):
    other = dataclasses.replace(REFERENCE, grads=grads)
    assert agreement.Pair(REFERENCE, other).gradients("x").passed is expected


BEFORE = [(1, 9.0), (2, 5.0), (3, 3.0)]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ([*BEFORE, (4, 3.2), (5, 2.5)], True),
        (BEFORE, False),
        # It began anew; it lost its parameters; it lost its log.
        ([*BEFORE, (1, 9.1), (2, 5.2)], False),
        ([*BEFORE, (4, 8.8)], False),
        ([(4, 3.2)], False),
    ],
)
def test_a_resumed_loss_continues(after, expected):
    assert demo.goes_on(BEFORE, after) is expected


def test_the_check_fits_the_minutes_that_it_may_take():
    assert sum(section.seconds for section in SECTIONS) <= 8 * 60


def test_what_is_carried_to_a_machine_is_what_we_require():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    [carried] = re.findall(r"^CARRIED := (.*)$", makefile, re.M)
    pinned = {line.partition("==")[0] for line in (ROOT / "requirements.txt").open()}
    # Grain needs the one that we do not.
    assert set(carried.split()) - pinned == {"portpicker"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes=tiny"], "--out must be given"),
        (["--sizes=huge", "--out=o"], "--sizes=huge: value should be one of <full"),
        (["--sizes=tiny", "--out=o", "--minutes=0"], "--minutes=0: must be positive"),
        (["--sizes=tiny", "--out=o", "--only=owt-pad"], "no such section; did you mean"),
        (["--sizes=tiny", "--out=o", "--only="], "--only= is empty"),
        (["--sizes=tiny", "--out=taken"], "a part of this path is a file"),
        (["--out=o"], "JAX_PLATFORMS=cpu: a CPU would take hours; give --sizes=tiny"),
    ],
)
def test_what_cannot_be_checked_is_one_line(tmp_path, arguments, message):
    (tmp_path / "taken").touch()
    refuse(message, "benchmarks.gpu_check", *arguments, cwd=tmp_path)
