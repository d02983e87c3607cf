"""How much tests do: enough within minutes, or more of the same where FLEXMDM_THOROUGH is set.

`make test-all` sets it. The tests are the same: quick ones draw fewer rows, kill fewer times,
compile every other kernel for a TPU, and compile other programs without optimisation, which takes
most of a test's time.
"""

import os
from typing import TypeVar

T = TypeVar("T")

THOROUGH = os.environ.get("FLEXMDM_THOROUGH", "0") != "0"


def either(quick: T, thorough: T) -> T:
    """Returns the first, or for thorough tests the second."""
    return thorough if THOROUGH else quick


# A training step compiles in a ninth of the time and runs at a fifth of the speed.
COMPILER_FLAGS = either(
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false", ""
)
# For jax.jit(compiler_options=…) of a program that runs longer than it compiles.
OPTIMISED = either({"xla_backend_optimization_level": 3}, {})
