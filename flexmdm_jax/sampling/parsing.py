"""A sampler from what a user wrote."""

from typing import Any

from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import nearest, parse_strategy
from flexmdm_jax.sampling.correctors import CORRECTORS
from flexmdm_jax.sampling.insertions import INSERTION_RULES
from flexmdm_jax.sampling.settings import SamplerConfig
from flexmdm_jax.sampling.unmasking import RULES
from flexmdm_jax.schedules import SCHEDULES

# How a sampler spends its calls of the network, by the name that users give it.
SAMPLERS = ("adaptive", "grid", "exact", "paper")
# Setting -> the kinds that its texts name, and the word for them.
_KINDS = {
    "rule": (RULES, "rule"),
    "insertions": (INSERTION_RULES, "insertion rule"),
    "grid": (SCHEDULES, "grid"),
    "corrector": (CORRECTORS, "corrector"),
}
# What a sampler decides itself, or has no use for.
_REFUSED = {
    "adaptive": ("grid",),
    "grid": (),
    "exact": ("grid", "insertions"),
    "paper": ("rule", "insertions", "grid"),
}


def parse_sampler(sampler: str = "", **settings: Any) -> SamplerConfig:
    """Returns the sampler of these settings; a text that is empty says nothing.

    Args:
      sampler: One of SAMPLERS; empty for a grid if steps are given, and adaptive steps if not.
      **settings: Attributes of SamplerConfig. Rule, insertions, grid and corrector are texts, as
        parse_strategy() takes them: `adaptive:confidence=margin`.

    Raises:
      UserError: If a kind is unknown, a number out of range, or settings contradict each other.
    """
    steps = settings.get("steps", 0)
    sampler = sampler or ("grid" if steps else "adaptive")
    if sampler not in SAMPLERS:
        raise UserError(f"unknown sampler {sampler!r}{nearest(sampler, SAMPLERS)}")
    if sampler in ("grid", "paper") and not steps:
        raise UserError(f"sampler {sampler!r} needs a number of steps")
    if sampler in ("adaptive", "exact") and steps:
        raise UserError(f"sampler {sampler!r} takes no steps; leave out steps = {steps}")
    if sampler != "adaptive" and "events_per_step" in settings:
        raise UserError("events_per_step is for adaptive steps; leave out steps and sampler")
    for name in _REFUSED[sampler]:
        if settings.get(name):
            hint = "; give it steps" if sampler == "adaptive" else ""
            what = f"{_KINDS[name][1]} {settings[name]!r}"
            raise UserError(f"sampler {sampler!r} takes no {what}{hint}")
    given = {}
    for name, value in settings.items():
        if name in _KINDS and value:
            value = parse_strategy(value, *_KINDS[name])
        if value or name not in _KINDS:
            given[name] = value
    try:
        if sampler == "paper":
            return SamplerConfig.paper(**given)
        return SamplerConfig(exact=sampler == "exact", **given)
    except ValueError as error:
        raise UserError(str(error)) from None
