"""The diffs of CONTRIBUTING.md apply to the code as it is, and what they add works."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from commands import environment

ROOT = pathlib.Path(__file__).parents[1]
DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)


def hunks(diff):
    """Yields (path, lines as they are, lines as they become) of each hunk."""
    for path, body in re.findall(r"--- .*\n\+\+\+ b/(.*)\n((?:(?!---).*\n)*)", diff):
        for hunk in body.split("@@\n")[1:]:
            lines = hunk.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] != "+")
            after = "".join(line[1:] for line in lines if line[0] != "-")
            yield path, before, after


@pytest.fixture(scope="module")
def contributed(tmp_path_factory):
    """A copy of the package to which all of it has been added."""
    folder = tmp_path_factory.mktemp("contributed")
    shutil.copytree(ROOT / "flexmdm_jax", folder / "flexmdm_jax")
    for path, before, after in (hunk for diff in DIFFS for hunk in hunks(diff)):
        file = folder / path
        text = file.read_text() if file.exists() else ""
        assert not before or text.count(before) == 1, f"{path} no longer has:\n{before}"
        file.write_text(text.replace(before, after) if before else after)
    return folder


CHECKS = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from flexmdm_jax.attention import attention
from flexmdm_jax.data.tasks import TASKS
from flexmdm_jax.fields import parse_strategy
from flexmdm_jax.sampling.unmasking import RULES, Draw, Span
from flexmdm_jax.schedules import SCHEDULES, Linear

t = np.linspace(0, 0.99, 50).astype(np.float32)
schedule = parse_strategy("hyperbolic", SCHEDULES, "schedule")
np.testing.assert_allclose(schedule.at(t), 2 * t / (1 + t), rtol=1e-5, atol=1e-7)
np.testing.assert_allclose(schedule.inverse(schedule.at(t)), t, rtol=1e-4, atol=1e-6)
np.testing.assert_allclose(schedule.inverse_survival(schedule.survival(t)), t, atol=1e-6)
np.testing.assert_allclose(np.gradient(schedule.at(t), t)[5:-5], schedule.derivative(t)[5:-5], 1e-3)

rule = parse_strategy("steady:confidence=top_prob", RULES, "rule")
sure = jnp.array([[0.1, 0.9, 0.5, 0.7, 0.3, 0.2, 0.4, 0.6, 0.8, 0.95]])
draw = lambda slots: Draw(jnp.zeros(slots.shape, int), sure)
span = Span(jnp.array([0.0]), jnp.array([0.25]), jnp.array([False]), jnp.array([False]))
keys = jax.random.split(jax.random.key(0), 1)
chosen = rule.choose(keys, jnp.ones((1, 10), bool), draw, Linear(), span).slots
assert np.flatnonzero(chosen[0]).tolist() == [1, 8, 9]

task = parse_strategy("palindromes:num_sequences=40", TASKS, "source")
dataset = task.write(pathlib.Path(sys.argv[1]) / "palindromes")
assert sum(sum(x.values()) for x in dataset.lengths.values()) == 40

rng = np.random.default_rng(0)
q, k, v = (rng.normal(size=(2, 7, heads, 8)).astype(np.float32) for heads in (4, 2, 2))
segment_ids = np.array([[1, 1, 1, 2, 2, 0, 0], [1] * 7], np.int32)
ours, theirs = (
    attention(q, k, v, segment_ids, implementation=name) for name in ("einsum", "xla")
)
np.testing.assert_allclose(ours, theirs, atol=1e-5)
"""


def test_what_the_diffs_add_works(contributed, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", CHECKS, str(tmp_path)],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(contributed)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_what_the_diffs_add_is_in_style(contributed):
    assert len(DIFFS) == 4
    changed = sorted({str(contributed / path) for diff in DIFFS for path, _, _ in hunks(diff)})
    config = f"--config={ROOT / 'pyproject.toml'}"
    for action in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *action, "--no-cache", config, *changed]
        result = subprocess.run(ruff, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "path",
    sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text()))),
)
def test_the_files_it_names_are_there(path):
    assert (ROOT / path).is_file()
