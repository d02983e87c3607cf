"""Checks one GPU: is all that is computed right there, how fast is it, what does it hold.

python -m benchmarks.gpu_check --out=runs/gpu_check                              (eight minutes)
JAX_PLATFORMS=cpu python -m benchmarks.gpu_check --sizes=tiny --out=runs/tiny    (on a CPU)

Nothing is fetched. Results are in DIR/gpu_check.json after every row, so that whatever ends the
check loses nothing. A section is a process of its own: a kernel that crashes or hangs ends it
alone. The status is 1 if a section failed.

A machine that has JAX (0.10 or later, for CUDA), flax, optax, orbax-checkpoint and PyTorch, but
reaches no package registry, lacks a few packages of pure Python or of C++. Fetch their wheels for
its Python (3.12 here) elsewhere, carry the folder there, and install it; docs/gpu.md says how:

    make gpu-wheels && make gpu-check PYTHON_GPU=python3
"""

import functools
import os
import pathlib
import sys
import time

from absl import flags

from benchmarks.gpu_sections.registry import NAMES, SECTIONS
from benchmarks.gpu_sections.report import Report
from benchmarks.gpu_sections.running import Outcome, apart, here, outcome_of
from benchmarks.gpu_sections.section import Context, Section, first_sentence
from benchmarks.gpu_sections.sizes import SIZES
from flexmdm_jax import cli, options
from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import nearest
from flexmdm_jax.files import new_file
from flexmdm_jax.ranges import Positive


def define_flags() -> None:
    """Defines what main() reads."""
    options.define_path("out", None, "A folder for gpu_check.json.")
    options.define_number("minutes", 8.0, "The whole may take; no section begins later.", Positive)
    flags.DEFINE_enum("sizes", "full", list(SIZES), "For an H100, or so tiny that a CPU will do.")
    flags.DEFINE_list("only", list(NAMES), f"Sections, of {', '.join(NAMES)}.")
    flags.DEFINE_bool("isolate", True, "A process for each section; without, none can be stopped.")
    flags.DEFINE_bool("overwrite", False, "Replace gpu_check.json if it exists.")
    flags.mark_flag_as_required("out")


def chosen(names: list[str]) -> list[Section]:
    """Returns the sections of these names, in the order of the check.

    Raises:
      UserError: If there is none of a name.
    """
    if not names:
        raise UserError(f"--only= is empty; choose of {', '.join(NAMES)}")
    for name in names:
        if name not in NAMES:
            raise UserError(f"--only={name}: no such section{nearest(name, NAMES)}")
    return [section for section in SECTIONS if section.name in names]


def main(_):
    """Runs the sections and prints the table."""
    values = flags.FLAGS
    sections, sizes = chosen(values.only), SIZES[values.sizes]
    if sizes.needs_gpu and os.environ.get("JAX_PLATFORMS") == "cpu":
        raise UserError("JAX_PLATFORMS=cpu: a CPU would take hours; give --sizes=tiny")
    path = new_file(str(pathlib.Path(values.out, "gpu_check.json")), values.overwrite)
    asked = {name: values[name].value for name in ("sizes", "minutes", "only")}
    report = Report.of(path, asked, tuple(section.name for section in sections))
    report.save()
    run = apart if values.isolate else here
    ends = time.monotonic() + 60 * values.minutes
    for section in sections:
        print(f"{section.name}: {first_sentence(section)}", flush=True)
        context = Context(sizes, report.rows)
        left = ends - time.monotonic()
        keep = functools.partial(report.add, section.name)
        report.end(section.name, _outcome(run, section, context, left, keep))
    print(report.table())
    print(f"\nwritten: {path}")
    if report.failed:
        sys.exit(1)


def _outcome(run, section: Section, context: Context, left: float, keep) -> Outcome:
    if section.seconds > left:
        needed = f"takes {section.seconds:.0f} s and {max(left, 0):.0f} s are left"
        return Outcome("skipped", error=f"{needed}; raise --minutes, or name it in --only")
    return outcome_of(run, section, context, min(2 * section.seconds, left), keep)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
