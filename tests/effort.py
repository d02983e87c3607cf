"""How much tests do: enough within minutes, or more of the same where FLEXMDM_THOROUGH is set.

`make test-all` sets it. The tests are the same: quick ones draw fewer rows, kill fewer times,
compile every other kernel for a TPU, and compile other programs without optimisation, which takes
most of a test's time.
"""

import importlib.metadata
import os
from typing import TypeVar

T = TypeVar("T")

THOROUGH = os.environ.get("FLEXMDM_THOROUGH", "0") != "0"


def either(quick: T, thorough: T) -> T:
    """Returns the first, or for thorough tests the second."""
    return thorough if THOROUGH else quick


# JAX 0.11 ends the process at a flag that it no longer knows.
_JAX = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
_OLD_EMITTERS = " --xla_cpu_use_fusion_emitters=false" if _JAX < (0, 11) else ""

# A training step compiles in a ninth of the time and runs at a fifth of the speed.
COMPILER_FLAGS = either(f"--xla_backend_optimization_level=0{_OLD_EMITTERS}", "")
# For jax.jit(compiler_options=…) of a program that runs longer than it compiles.
OPTIMISED = either({"xla_backend_optimization_level": 3}, {})
