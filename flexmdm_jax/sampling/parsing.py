"""A sampler from what a user wrote."""

from typing import Any

from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import parse_strategy
from flexmdm_jax.sampling.insertions import INSERTION_RULES
from flexmdm_jax.sampling.loop import SamplerConfig
from flexmdm_jax.sampling.steps import RULES
from flexmdm_jax.schedules import SCHEDULES


def parse_sampler(rule: str, insertions: str, grid: str, **settings: Any) -> SamplerConfig:
    """Returns the sampler with the rules and the time grid of these names.

    Args:
      rule: The unmasking rule, as parse_strategy() takes it: `adaptive:confidence=margin`.
      insertions: The insertion rule, the same way.
      grid: The schedule that spaces the steps, the same way.
      **settings: The other attributes of SamplerConfig.

    Raises:
      UserError: If a rule or grid is unknown or a setting out of range.
    """
    try:
        return SamplerConfig(
            rule=parse_strategy(rule, RULES, "rule"),
            insertions=parse_strategy(insertions, INSERTION_RULES, "insertion rule"),
            grid=parse_strategy(grid, SCHEDULES, "grid"),
            **settings,
        )
    except ValueError as error:
        raise UserError(str(error)) from None
