"""The process behind it all: when a token is inserted, when it is unmasked, and the ids it uses."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flexmdm_jax.schedules import LAST_TIME, Immediate, Linear, Schedule
from flexmdm_jax.types import Vocabulary

Times = Float[Array, "*times"]

# Before this time, differences and logarithms of what is nearly 1 would lose precision.
_EARLY = 0.5
_NUM_NODES = 32


@dataclasses.dataclass(frozen=True)
class Process:
    """How a clean sequence comes about (paper, Section 4.1), which losses and samplers share.

    Each token that is not fixed is absent until its insertion time T₁ ~ α' dt, MASK until its
    unmasking time T₂ >= T₁, with β(T₂) uniform on [β(T₁), 1], and clean from then on. Both
    schedules are linear unless told, as in the paper.

        >>> process = Process(Vocabulary(size=12, mask=10, end=11))
        >>> baseline = Process.mdm(process.vocabulary)

    Attributes:
      vocabulary: Ids of MASK and END.
      insertion: α, the chance to be inserted by time t.
      unmasking: β, not immediate.

    Raises:
      ValueError: If an argument is not what its name says.
    """

    vocabulary: Vocabulary
    insertion: Schedule = Linear()
    unmasking: Schedule = Linear()

    def __post_init__(self):
        if not isinstance(self.vocabulary, Vocabulary):
            raise ValueError(f"vocabulary = {self.vocabulary!r}; it comes first, as in Process(…)")
        for name in ("insertion", "unmasking"):
            schedule = getattr(self, name)
            if isinstance(schedule, type) or not isinstance(schedule, Schedule):
                raise ValueError(f"{name} = {schedule!r}; give a schedule, such as Linear()")
        if not self.unmasking.inserts:
            raise ValueError("unmasking is immediate: then nothing is ever masked")

    @classmethod
    def mdm(cls, vocabulary: Vocabulary, unmasking: Schedule = unmasking) -> "Process":
        """Returns the process of fixed length: every token is there, masked, from the start."""
        return cls(vocabulary, Immediate(), unmasking)

    @property
    def inserts(self) -> bool:
        """Returns whether tokens are inserted; if not (MDM), END is data like any token."""
        return self.insertion.inserts

    def exposure(self, t: Times) -> Times:
        """Returns I(t) = ∫₀ᵗ α'(u) / (1 - β(u)) du, which splits what is present at time t.

        A token is MASK with probability (1 - β) I, clean with α - (1 - β) I. For MDM I = 1. At
        t = 1, where it may be infinite, it is that of the last time before.
        """
        if not self.inserts:
            return jnp.ones_like(t)
        t = jnp.minimum(t, LAST_TIME)
        if self.insertion != self.unmasking:
            return self._integrated_exposure(t)
        early = self._integrated_exposure(jnp.minimum(t, _EARLY))
        return jnp.where(t < _EARLY, early, -jnp.log(self.insertion.survival(t)))

    def _integrated_exposure(self, t: Times) -> Times:
        points = _Points.until(t)
        return points.sum(self._entering(points.time))

    def _entering(self, u: Times) -> Times:
        return self.insertion.derivative(u) / self.unmasking.survival(u)

    def absent(self, t: Times) -> Times:
        """Returns the chance that a token is not yet inserted at time t."""
        return self.insertion.survival(t)

    def masked(self, t: Times) -> Times:
        """Returns the chance that a token is inserted and still MASK at time t."""
        return self.unmasking.survival(t) * self.exposure(t)

    def clean(self, t: Times) -> Times:
        """Returns the chance that a token is unmasked by time t.

        Near t = 0, where α and P(mask) are nearly the same, it is computed without their
        difference.
        """
        if not self.inserts:
            return self.unmasking.at(t)
        # d P(clean) = β' I dt: nothing is subtracted.
        points = _Points.until(jnp.minimum(t, _EARLY))
        exposure = points.running_sum(self._entering(points.time))
        early = points.sum(self.unmasking.derivative(points.time) * exposure)
        return jnp.where(t < _EARLY, early, self.insertion.at(t) - self.masked(t))


class _Points(NamedTuple):
    """Where integrals from 0 to t are evaluated: Gauss-Legendre nodes x in [0, 1], last axis.

    They lie at 1 - u = (1 - t) ** x², closer together towards u = 0, where α' may begin like a
    fractional power, and towards u = 1, where 1 / (1 - β) grows without bound.
    """

    time: Float[Array, "*times n"]
    slope: Float[Array, "*times n"]

    @classmethod
    def until(cls, t: Times) -> "_Points":
        log_rest = jnp.log1p(-t)[..., None]
        x = jnp.asarray(_NODES, t.dtype).reshape((1,) * t.ndim + (-1,))
        time = -jnp.expm1(log_rest * x**2)
        return cls(time, -2.0 * log_rest * x * jnp.exp(log_rest * x**2))

    def sum(self, values: Float[Array, "*times n"]) -> Times:
        """Returns the integral of a function from 0 to t, given its values at the nodes."""
        return jnp.dot(values * self.slope, jnp.asarray(_WEIGHTS, values.dtype))

    def running_sum(self, values: Float[Array, "*times n"]) -> Float[Array, "*times n"]:
        """Returns the integrals from 0 to each node."""
        return jnp.dot(values * self.slope, jnp.asarray(_RUNNING.T, values.dtype))


def _gauss_legendre(num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns nodes and weights on [0, 1], and the matrix of integrals from 0 to each node.

    Row j of the matrix integrates, up to node j, the polynomial through values at all nodes: its
    Legendre coefficients are sums over the nodes, and ∫ P_m = (P_{m+1} - P_{m-1}) / (2m + 1).
    """
    x, weights = np.polynomial.legendre.leggauss(num)
    legendre = np.polynomial.legendre.legvander(x, num)
    before = np.concatenate([-np.ones((num, 1)), legendre[:, : num - 1]], axis=1)
    running = (legendre[:, 1:] - before) @ legendre[:, :num].T * weights / 2
    return (1 + x) / 2, weights / 2, running / 2


_NODES, _WEIGHTS, _RUNNING = _gauss_legendre(_NUM_NODES)
