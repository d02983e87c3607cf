"""Faults put into a copy of the code, one at a time: the tests beside each must find it.

make mutants, or python tests/mutants.py losses packing for those of files with such names.
"""

import importlib
import itertools
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
# A test that takes longer than this for a fault has found it.
SECONDS = 600


class Mutant(NamedTuple):
    """A fault.

    Attributes:
      file: Below flexmdm_jax/.
      old: Text that is there once.
      new: What stands there instead.
      tests: A file below tests/, and which of its tests, as pytest's -k has it.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, str]


def _of(file: str, tests: str, *faults: tuple[str, str, str]) -> tuple[Mutant, ...]:
    """Returns the faults of a file: (which tests find it, old text, new text)."""
    return tuple(Mutant(file, old, new, (tests, which)) for which, old, new in faults)


MUTANTS = (
    *_of(
        "schedules.py",
        "test_schedules.py",
        (
            "hazard",
            "self.derivative(t) / self.survival(t)",
            "self.derivative(t) * self.survival(t)",
        ),
        ("leap", "1.0 - self.survival(t_next) / self.survival(t)", "self.at(t_next) - self.at(t)"),
        ("precision", "-_math(t).expm1(self.power * _math(t).log(t))", "1.0 - t**self.power"),
        (
            "precision",
            "2.0 * _math(t).sin((1.0 - t) * (math.pi / 4.0)) ** 2",
            "1.0 - _math(t).sin(t * (math.pi / 2.0))",
        ),
        ("come_back", "1.0 - s ** (1.0 / self.power)", "1.0 - s**self.power"),
        (
            "inverse",
            "_math(s).log1p(excess / self.sigma_min) / self._log_ratio",
            "_math(s).log(excess / self.sigma_min) / self._log_ratio",
        ),
        (
            "immediate",
            "return _math(t).zeros_like(t)\n\n    def leap",
            "return _math(t).ones_like(t)\n\n    def leap",
        ),
    ),
    *_of(
        "process.py",
        "test_process.py",
        (
            "integrals",
            "self.unmasking.survival(t) * self.exposure(t)",
            "self.unmasking.survival(t) * self.insertion.at(t)",
        ),
        (
            "integrals",
            "early, self.insertion.at(t) - self.masked(t))",
            "early, self.insertion.at(t))",
        ),
        ("integrals", "time = -jnp.expm1(log_rest * x**2)", "time = -jnp.expm1(log_rest * x)"),
        ("mdm", "return jnp.ones_like(t)", "return self.unmasking.at(t)"),
    ),
    *_of(
        "interpolant.py",
        "test_interpolant.py",
        (
            "at_the_start",
            "present = fixed | (insertion_level < insertion.at(t))",
            "present = insertion_level < insertion.at(t)",
        ),
        (
            "equals_a_loop",
            "unmasking.survival(insertion.inverse(insertion_level)) * (1.0 - unmasking_level)",
            "1.0 - unmasking_level",
        ),
        ("equals_a_loop", "present & ~fixed & (survival <", "present & (survival <"),
        ("keep_order", "jnp.where(kept, missing - before, 0)", "jnp.where(kept, missing, 0)"),
        (
            "keep_order",
            "jnp.arange(present.shape[1])[None, :] < jnp.sum(present",
            "jnp.arange(present.shape[1])[None, :] <= jnp.sum(present",
        ),
        (
            "amount_of_padding",
            "jax.random.uniform(key, (real.shape[1], 2))",
            "jax.random.uniform(key, (2, real.shape[1])).T",
        ),
        ("stratified", "warped((stratum + offset) / num_strata, warp)", "warped(offset, warp)"),
    ),
    *_of(
        "interpolant.py",
        "data/batches/test_noise.py",
        ("warped", "warp * rest ** (warp - 1.0)", "rest ** (warp - 1.0)"),
    ),
    *_of(
        "losses.py",
        "test_losses.py",
        ("equals_a_loop", "mean - x.gaps * jnp.log(mean)", "mean - jnp.log(mean)"),
        (
            "tight_for_each",
            "nats = _divergence(encoding, x) - x.gaps",
            "nats = _divergence(encoding, x)",
        ),
        (
            "equals_a_loop",
            "process.insertion.hazard(t) * times.weight",
            "process.unmasking.hazard(t) * times.weight",
        ),
        (
            "equals_a_loop",
            "process.unmasking.hazard(t) * times.weight",
            "process.unmasking.hazard(t)",
        ),
        (
            "close_gaps",
            "jnp.where(x.closed, jnp.where(x.gaps > 0, jnp.inf, 0.0), nats)",
            "jnp.where(x.closed, 0.0, nats)",
        ),
        (
            "equals_a_loop",
            "jnp.minimum(x.gaps, logits.shape[-1] - 1)",
            "jnp.minimum(x.gaps, logits.shape[-1] - 2)",
        ),
        ("equals_a_loop", '"num_pairs": jnp.sum(lengths**2)', '"num_pairs": jnp.sum(lengths)'),
        ("vanishing", "_SMALLEST_GAP = 1e-30", "_SMALLEST_GAP = 0.0"),
        ("stated_error", "jnp.sum(differences**2, axis=0) / 2", "jnp.sum(differences**2, axis=0)"),
        ("equals_a_loop", "return of_slot(encoding, x)", "return _divergence(encoding, x)"),
        (
            "takes_the_mean",
            "nats = _divergence(encoding, x) - x.gaps",
            "nats = _learned(encoding, x) - x.gaps",
        ),
    ),
    *_of(
        "posterior.py",
        "test_posterior.py",
        ("rule_out", "ids == process.vocabulary.mask", "ids == process.vocabulary.end"),
        (
            "rule_out",
            "if process.inserts:\n        impossible",
            "if not process.inserts:\n        impossible",
        ),
        ("map_slots", "num_chosen - number * sizes[-1]", "num_chosen - (number + 1) * sizes[-1]"),
        (
            "map_slots",
            "jnp.max(jnp.sum(self.chosen, axis=1))",
            "jnp.min(jnp.sum(self.chosen, axis=1))",
        ),
        ("map_slots", "jnp.where(mask, x, 0).reshape", "jnp.where(mask, x, x).reshape"),
        (
            "never_reach",
            "x, jnp.zeros_like(x))\n        x = x.reshape",
            "x, x)\n        x = x.reshape",
        ),
        ("sum_slots", "return jnp.vdot(weights, nats), nats", "return jnp.sum(nats), nats"),
        ("sum_slots", "lambda x: (factor * x).astype", "lambda x: x.astype"),
        ("third_more or half_more", "(fewest + fewest // part)", "(fewest + 2 * fewest // part)"),
    ),
    *_of(
        "data/batches/packing.py",
        "data/batches/test_packing.py",
        (
            "",
            "heapq.heapreplace(free, (room + size, row, places - 1))",
            "heapq.heapreplace(free, (room, row, places - 1))",
        ),
        (
            "",
            "bisect.insort(free, (room - size, row, places - 1))",
            "bisect.insort(free, (room - size, row, places))",
        ),
        ("", "if not without:", "if without >= 0:"),
        ("", "if size > -room:", "if size >= -room:"),
        ("", 'np.searchsorted(ends, room, side="right")', "np.searchsorted(ends, room // 2)"),
    ),
    *_of(
        "sampling/unmasking.py",
        "sampling/test_unmasking.py",
        ("independent_rules", "return rate * jnp.exp(-rate)", "return 1.0 - jnp.exp(-rate)"),
        (
            "independent_rules",
            "return unmasking.leap(t, t_next)",
            "return unmasking.hazard(t) * (t_next - t)",
        ),
        ("confidences", "jnp.exp(best) - jnp.exp(second)", "jnp.exp(best)"),
        ("certainty or confidences", "jnp.exp(log_f) * log_f", "-jnp.exp(log_f) * log_f"),
        ("window", "self.window_factor * count", "self.window_factor + count"),
        ("threshold", "return score > self.threshold", "return score < self.threshold"),
        ("entropy_bound", "axis=1) <= self.bound", "axis=1) <= 2 * self.bound"),
        (
            "one_mask",
            "masked & jnp.where(span.one[:, None], first, noise < chance[:, None])",
            "masked & (noise < chance[:, None])",
        ),
    ),
    *_of(
        "sampling/insertions.py",
        "sampling/test_unmasking.py",
        ("overflow_keeps", "< jnp.minimum(total, limits.room)", "< total"),
        ("temperature_0", "0.5 + self.temperature * (", "0.5 + ("),
        ("neglect_no_gap", "level < leap * each", "level < leap"),
        ("overflow", "jnp.cumsum(inserted) <= limits.room", "jnp.cumsum(inserted) < limits.room"),
        ("binomial_overflow", "exists, order_noise, 2.0", "exists, 0.0, 2.0"),
        (
            "closed_gaps_alone",
            "jnp.where(gaps > 0, missing, 0)",
            "jnp.where(gaps > 1e9, missing, 0)",
        ),
        ("closed_gaps", "jnp.where(gaps > 0, missing, 0)", "jnp.where(gaps >= 0, missing, 0)"),
        ("one_insertion", "jnp.argmax(cumulative > point, axis=1)", "jnp.argmax(gaps, axis=1)"),
    ),
    *_of(
        "sampling/lengths.py",
        "sampling/test_lengths.py",
        ("scaled_gaps", "gaps / total * wanted", "gaps * wanted"),
    ),
    *_of(
        "sampling/canvas.py",
        "sampling/test_canvas.py",
        ("remove", "jnp.cumsum(kept, axis=1) - 1", "jnp.cumsum(kept, axis=1)"),
        (
            "insert_masks",
            "[None, :] + jnp.cumsum(counts, axis=1)",
            "[None, :] + jnp.cumsum(counts, axis=1) - counts",
        ),
        ("protect", "(slots < stop[:, None])", "(slots <= stop[:, None])"),
    ),
    *_of(
        "sampling/drawing.py",
        "sampling/test_loop.py",
        ("what_stays", "count(above) < wanted", "count(above) <= wanted"),
        ("what_stays", "mass(above) < top_p", "mass(above) < top_p / 2"),
    ),
    *_of(
        "sampling/correctors.py",
        "sampling/test_correctors.py",
        ("going_back", "level >= clean_to_clean", "level < clean_to_clean"),
    ),
    *_of(
        "sampling/leaps.py",
        "sampling/test_loop.py",
        ("every_block", "finish=step + 1 == size", "finish=step == size"),
    ),
)


def copy_code(folder: pathlib.Path) -> None:
    """Copies what tests need into a folder."""
    for name in ("flexmdm_jax", "tests", "configs", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)


def run(folder: pathlib.Path, tests: tuple[str, str]) -> int:
    """Returns pytest's status, or minus the signal that ended it, in a fork of this process."""
    file, which = tests
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        os.chdir(folder)
        silent = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        import pytest

        options = ["-q", "-x", "-p", "no:cacheprovider", f"tests/{file}"]
        status = pytest.main(options + (["-k", which] if which else []))
        sys.stdout.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Python takes a file for the one that it has compiled if size and time, in seconds, are the same.
_TIMES = itertools.count(int(time.time()) + 1)


def write(file: pathlib.Path, text: str) -> None:
    """Writes a file that Python sees has changed."""
    file.write_text(text)
    now = next(_TIMES)
    os.utime(file, (now, now))


def survives(folder: pathlib.Path, mutant: Mutant) -> bool:
    """Returns whether no test finds a fault.

    Raises:
      RuntimeError: If its tests fail without it, or cannot run with it.
    """
    file = folder / "flexmdm_jax" / mutant.file
    text = file.read_text()
    write(file, text.replace(mutant.old, mutant.new))
    started = time.monotonic()
    status = run(folder, mutant.tests)
    write(file, text)
    verdict = {0: "SURVIVED", 1: "killed", -signal.SIGALRM: "killed (time)"}.get(status)
    name = f"{mutant.file}: {mutant.old.strip().splitlines()[0]}"
    if verdict is None:
        output = (folder / "output").read_text()
        raise RuntimeError(f"{name}: its tests did not run (status {status})\n{output[-2000:]}")
    print(f"{verdict:8} {time.monotonic() - started:6.1f} s  {name}", flush=True)
    return status == 0


def baselines(mutants: list[Mutant]) -> list[tuple[str, str]]:
    """Returns the tests of faults, each file once."""
    files: dict[str, list[str]] = {}
    for file, which in (mutant.tests for mutant in mutants):
        files.setdefault(file, []).append(which)
    return [(file, " or ".join(dict.fromkeys(names))) for file, names in files.items()]


def main(names: list[str]) -> int:
    """Returns 1 if a fault survives, and prints a line for each."""
    chosen = [x for x in MUTANTS if not names or any(name in x.file for name in names)]
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        copy_code(folder)
        # Programs that a fault does not change are compiled once.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "programs")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        # What every fork would import anew.
        for module in ("hypothesis", "jax", "pytest"):
            importlib.import_module(module)
        for tests in baselines(chosen):
            if status := run(folder, tests):
                output = (folder / "output").read_text()
                raise RuntimeError(f"{tests} fails without any fault (status {status})\n{output}")
        survivors = sum(survives(folder, mutant) for mutant in chosen)
    print(f"{len(chosen) - survivors} of {len(chosen)} faults are found")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
