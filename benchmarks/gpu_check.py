"""Checks one GPU: is what is computed there right, how fast is it, how much memory does it take.

make gpu-check                                                                   (eight minutes)
JAX_PLATFORMS=cpu python -m benchmarks.gpu_check --sizes=tiny --out=runs/tiny    (on a CPU)

Nothing is fetched. Results stand in DIR/gpu_check.json after every row, so that whatever ends the
check loses nothing. A section is a process of its own: a kernel that crashes or hangs ends it
alone. The status is 1 if a section failed.

It takes any JAX from 0.10 on. A machine that cannot fetch packages and has JAX for CUDA, flax,
optax, orbax-checkpoint and PyTorch still lacks array_record, grain, ml_collections, portpicker,
tensorboardX and zstandard. Elsewhere, `make gpu-wheels` runs `pip download --no-deps` of them for
Python 3.12 into wheels/; carry that folder along, and `make gpu-check` installs from it first, with
`pip install --no-index --no-deps --find-links wheels`. docs/gpu.md says more.
"""

import functools
import os
import pathlib
import sys
import time
from collections.abc import Sequence

from absl import flags

from benchmarks.gpu_sections.registry import NAMES, SECTIONS
from benchmarks.gpu_sections.report import Report
from benchmarks.gpu_sections.running import Outcome, Run, apart, here, outcome_of
from benchmarks.gpu_sections.section import Context, Section, first_sentence
from benchmarks.gpu_sections.sizes import SIZES, Sizes
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
    check(sections, sizes, report, apart if values.isolate else here, 60 * values.minutes)
    print(report.table())
    print(f"\nwritten: {path}")
    if report.failed:
        sys.exit(1)


def check(
    sections: Sequence[Section], sizes: Sizes, report: Report, run: Run, seconds: float
) -> None:
    """Runs sections one after another, as long as there is time for them.

    Args:
      sections: To run.
      sizes: Of what they measure.
      report: Takes in what they find.
      run: here or apart.
      seconds: For all of them.
    """
    report.save()
    ends = time.monotonic() + seconds
    for section in sections:
        print(f"{section.name}: {first_sentence(section)}", flush=True)
        left = max(0.0, ends - time.monotonic())
        if section.seconds > left:
            needed = f"takes {section.seconds:.0f} s and {left:.0f} s are left"
            outcome = Outcome("skipped", error=f"{needed}; raise --minutes, or name it in --only")
        else:
            keep = functools.partial(report.add, section.name)
            limit = min(sizes.patience * section.seconds, left)
            outcome = outcome_of(run, section, Context(sizes, report.rows), limit, keep)
        report.end(section.name, outcome)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
