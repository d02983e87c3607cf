"""The sections of the check, what is most worth knowing first."""

import functools

from benchmarks.gpu_sections import (
    agreement,
    attention_speed,
    attention_values,
    ceilings,
    demo,
    owt,
    sampling,
)
from benchmarks.gpu_sections.section import Section

_ours = functools.partial(functools.partial, owt.run)
_torch = functools.partial(functools.partial, owt.run_torch)

# Seconds are guesses, no GPU having run them; together they are eight minutes.
SECTIONS = (
    Section(ceilings.NAME, 20, ceilings.run),
    Section("attention-values", 55, attention_values.run),
    Section("attention-speed", 45, attention_speed.run),
    Section("agreement", 35, agreement.run),
    Section("demo", 45, demo.run),
    Section("owt-full", 30, _ours(layout="full")),
    Section("owt-padded", 30, _ours(layout="padded")),
    Section("owt-bucketed", 45, _ours(layout="bucketed")),
    Section("owt-packed", 35, _ours(layout="packed")),
    Section("sampling", 40, sampling.run),
    Section("torch-sdpa", 50, _torch(attention="sdpa"), on_host=True),
    Section("torch-flex", 50, _torch(attention="flex"), on_host=True),
)
NAMES = tuple(section.name for section in SECTIONS)
