"""Schedules a(t): when tokens are inserted (alpha) and when they are unmasked (beta).

A schedule rises smoothly from a(0) = 0 to a(1) = 1. Losses weight terms by its hazard, samplers
use its leap, which stays finite at t = 1. Everything is computed from the survival 1 - a(t), whose
formulas keep their relative precision near t = 1, where 1.0 - a(t) in float32 would not.

Arrays may be JAX's or NumPy's: training corrupts its examples on the host, bounds on devices.
"""

import dataclasses
import math
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float

from flexmdm_jax.ranges import OneOrMore, Positive, Ranged
from flexmdm_jax.types import HostOrDevice

Times = Float[HostOrDevice, "*times"]

# The largest float32 below 1: hazards are infinite at 1 itself.
LAST_TIME = 1.0 - 2.0**-24


def _math(x: Times) -> Any:
    """Returns the functions for arrays of x's kind: jax.numpy or numpy (the Python array API)."""
    return x.__array_namespace__()


@runtime_checkable
class Schedule(Protocol):
    """The chance a(t) that an event has happened by time t."""

    inserts: ClassVar[bool]

    def at(self, t: Times) -> Times:
        """Returns a(t)."""
        ...

    def inverse(self, u: Times) -> Times:
        """Returns the time t at which a(t) = u."""
        ...

    def survival(self, t: Times) -> Times:
        """Returns 1 - a(t)."""
        ...

    def inverse_survival(self, s: Times) -> Times:
        """Returns the time t at which 1 - a(t) = s; near t = 1 more exact than inverse(1 - s)."""
        ...

    def hazard(self, t: Times) -> Times:
        """Returns a'(t) / (1 - a(t)), the rate of events that have not happened; infinite at 1."""
        ...

    def leap(self, t: Times, t_next: Times) -> Times:
        """Returns the chance that an event not happened by t < 1 happens by t_next."""
        ...


class _Smooth:
    """Everything that follows from survival() and derivative()."""

    inserts: ClassVar[bool] = True

    def at(self, t: Times) -> Times:
        return 1.0 - self.survival(t)

    def hazard(self, t: Times) -> Times:
        return self.derivative(t) / self.survival(t)

    def leap(self, t: Times, t_next: Times) -> Times:
        return 1.0 - self.survival(t_next) / self.survival(t)


@dataclasses.dataclass(frozen=True)
class Linear(_Smooth):
    """a(t) = t, the paper's choice for both schedules."""

    def at(self, t: Times) -> Times:
        """Returns a(t)."""
        return t

    def inverse(self, u: Times) -> Times:
        """Returns the time t at which a(t) = u."""
        return u

    def survival(self, t: Times) -> Times:
        """Returns 1 - a(t)."""
        return 1.0 - t

    def inverse_survival(self, s: Times) -> Times:
        """Returns the time t at which 1 - a(t) = s."""
        return 1.0 - s

    def derivative(self, t: Times) -> Times:
        """Returns a'(t)."""
        return _math(t).ones_like(t)


@dataclasses.dataclass(frozen=True)
class Polynomial(_Smooth, Ranged):
    """a(t) = t ** power, with power >= 1 (below 1 the rate at t = 0 is infinite)."""

    power: OneOrMore = 2.0

    def at(self, t: Times) -> Times:
        """Returns a(t)."""
        return t**self.power

    def inverse(self, u: Times) -> Times:
        """Returns the time t at which a(t) = u."""
        return u ** (1.0 / self.power)

    def survival(self, t: Times) -> Times:
        """Returns 1 - a(t)."""
        return -_math(t).expm1(self.power * _math(t).log(t))

    def inverse_survival(self, s: Times) -> Times:
        """Returns the time t at which 1 - a(t) = s."""
        return _math(s).exp(_math(s).log1p(-s) / self.power)

    def derivative(self, t: Times) -> Times:
        """Returns a'(t)."""
        return self.power * t ** (self.power - 1.0)


@dataclasses.dataclass(frozen=True)
class Power(_Smooth, Ranged):
    """1 - a(t) = (1 - t) ** power, with power >= 1: steeper early, flatter late than linear.

    As a grid of steps it puts them closer together towards t = 1.
    """

    power: OneOrMore = 2.5

    def at(self, t: Times) -> Times:
        """Returns a(t)."""
        return -_math(t).expm1(self.power * _math(t).log1p(-t))

    def inverse(self, u: Times) -> Times:
        """Returns the time t at which a(t) = u."""
        return -_math(u).expm1(_math(u).log1p(-u) / self.power)

    def survival(self, t: Times) -> Times:
        """Returns 1 - a(t)."""
        return (1.0 - t) ** self.power

    def inverse_survival(self, s: Times) -> Times:
        """Returns the time t at which 1 - a(t) = s."""
        return 1.0 - s ** (1.0 / self.power)

    def derivative(self, t: Times) -> Times:
        """Returns a'(t)."""
        return self.power * (1.0 - t) ** (self.power - 1.0)


@dataclasses.dataclass(frozen=True)
class Sine(_Smooth):
    """a(t) = sin(πt / 2): events come early."""

    def inverse(self, u: Times) -> Times:
        """Returns the time t at which a(t) = u."""
        return _math(u).asin(u) * (2.0 / math.pi)

    def survival(self, t: Times) -> Times:
        """Returns 1 - a(t)."""
        return 2.0 * _math(t).sin((1.0 - t) * (math.pi / 4.0)) ** 2

    def inverse_survival(self, s: Times) -> Times:
        """Returns the time t at which 1 - a(t) = s."""
        return 1.0 - _math(s).asin(_math(s).sqrt(s / 2.0)) * (4.0 / math.pi)

    def derivative(self, t: Times) -> Times:
        """Returns a'(t)."""
        return (math.pi / 2.0) * _math(t).sin((1.0 - t) * (math.pi / 2.0))


@dataclasses.dataclass(frozen=True)
class Cosine(_Smooth):
    """a(t) = 1 - cos(πt / 2): events come late."""

    def at(self, t: Times) -> Times:
        """Returns a(t)."""
        return 2.0 * _math(t).sin(t * (math.pi / 4.0)) ** 2

    def inverse(self, u: Times) -> Times:
        """Returns the time t at which a(t) = u."""
        return _math(u).asin(_math(u).sqrt(u / 2.0)) * (4.0 / math.pi)

    def survival(self, t: Times) -> Times:
        """Returns 1 - a(t)."""
        return _math(t).sin((1.0 - t) * (math.pi / 2.0))

    def inverse_survival(self, s: Times) -> Times:
        """Returns the time t at which 1 - a(t) = s."""
        return 1.0 - _math(s).asin(s) * (2.0 / math.pi)

    def derivative(self, t: Times) -> Times:
        """Returns a'(t)."""
        return (math.pi / 2.0) * _math(t).sin(t * (math.pi / 2.0))


@dataclasses.dataclass(frozen=True)
class Geometric(_Smooth, Ranged):
    """The log-linear noise schedule of masked diffusion, rescaled to reach both ends.

    exp(-σ(t)) with σ(t) = sigma_max ** (1 - t) * sigma_min ** t runs from exp(-sigma_max) to
    exp(-sigma_min); a(t) is that curve mapped affinely onto [0, 1].
    """

    sigma_min: Positive = 1e-2
    sigma_max: Positive = 10.0

    def __post_init__(self):
        super().__post_init__()
        if not self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min = {self.sigma_min}, sigma_max = {self.sigma_max}; "
                "a geometric schedule needs sigma_min < sigma_max"
            )

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def _span(self) -> float:
        return -math.expm1(self.sigma_min - self.sigma_max)

    def _excess(self, t: Times) -> Times:
        # σ(t) - sigma_min without cancellation: survival is about proportional to it near t = 1.
        return self.sigma_min * _math(t).expm1((1.0 - t) * self._log_ratio)

    def inverse(self, u: Times) -> Times:
        """Returns the time t at which a(t) = u."""
        return self.inverse_survival(1.0 - u)

    def inverse_survival(self, s: Times) -> Times:
        """Returns the time t at which 1 - a(t) = s."""
        excess = -_math(s).log1p(-s * self._span)
        # At s = 1 rounding may leave the excess infinite.
        late = _math(s).log1p(excess / self.sigma_min) / self._log_ratio
        return _math(s).maximum(1.0 - late, 0.0)

    def survival(self, t: Times) -> Times:
        """Returns 1 - a(t)."""
        return -_math(t).expm1(-self._excess(t)) / self._span

    def derivative(self, t: Times) -> Times:
        """Returns a'(t)."""
        excess = self._excess(t)
        slope = (self.sigma_min + excess) * self._log_ratio
        return _math(t).exp(-excess) * slope / self._span


@dataclasses.dataclass(frozen=True)
class Immediate:
    """a(t) = 1 at all times: every token is there from the start, nothing is ever inserted.

    As insertion schedule it turns FlexMDM into MDM, the fixed-length baseline: no token is absent,
    the insertion loss has no weight and samplers never insert.
    """

    inserts: ClassVar[bool] = False

    def at(self, t: Times) -> Times:
        """Returns a(t)."""
        return _math(t).ones_like(t)

    def inverse(self, u: Times) -> Times:
        """Returns the time t at which the event happens: 0."""
        return _math(u).zeros_like(u)

    def survival(self, t: Times) -> Times:
        """Returns 1 - a(t)."""
        return _math(t).zeros_like(t)

    def inverse_survival(self, s: Times) -> Times:
        """Returns the time t at which the event happens: 0."""
        return _math(s).zeros_like(s)

    def hazard(self, t: Times) -> Times:
        """Returns 0: no event is left to happen."""
        return _math(t).zeros_like(t)

    def leap(self, t: Times, t_next: Times) -> Times:
        """Returns 0: no event is left to happen."""
        return _math(t).zeros_like(t_next)


SCHEDULES = {
    "linear": Linear,
    "polynomial": Polynomial,
    "power": Power,
    "sine": Sine,
    "cosine": Cosine,
    "geometric": Geometric,
}
