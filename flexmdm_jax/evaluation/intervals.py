"""How sure a share of successes is."""

import math
from collections.abc import Sequence

import numpy as np


def success_interval(successes: Sequence[bool | float]) -> dict[str, float]:
    """Returns the share of successes with its 95% interval (Wilson, 1927).

    Shares of successes may stand for successes: they vary less, so the interval is wide enough.
    """
    num, share, z = len(successes), float(np.mean(successes)), 1.959964
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + (z / (2 * num)) ** 2)
    return {
        "success": share,
        "success_low": max(centre - half, 0.0),
        "success_high": min(centre + half, 1.0),
    }
