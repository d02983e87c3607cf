"""How sure a share of successes is."""

import math
from collections.abc import Sequence

import numpy as np


def success_interval(successes: Sequence[bool | float], name: str = "success") -> dict[str, float]:
    """Returns the share of successes under a name, and its 95% interval (Wilson, 1927).

    The interval goes from `name_low` to `name_high`. Shares of successes may stand for successes:
    they vary less, so the interval is wide enough.

    Args:
      successes: At least one.
      name: Of the figure.
    """
    num, share, z = len(successes), float(np.mean(successes)), 1.959964
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + (z / (2 * num)) ** 2)
    return {
        name: share,
        f"{name}_low": max(centre - half, 0.0),
        f"{name}_high": min(centre + half, 1.0),
    }
