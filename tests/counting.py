"""Counting the work of a program from its trace."""

import numpy as np


def matmul_flops(jaxpr):
    """Returns the floating-point operations of all matrix products, loops multiplied out."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [v for v in eqn.params.values() if hasattr(v, "eqns") or hasattr(v, "jaxpr")]
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        total += times * sum(matmul_flops(getattr(v, "jaxpr", v)) for v in inner)
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shared = np.prod([eqn.invars[0].aval.shape[i] for i in contracted])
            total += 2 * int(shared * np.prod(eqn.outvars[0].aval.shape))
    return total
