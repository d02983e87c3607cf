"""The time and the noise of an example of training, which its number and the seed alone decide.

So a run sees the same x_t of the same example whether rows are padded or packed, and however many
devices and hosts share a step.
"""

import math

import numpy as np

from flexmdm_jax.interpolant import warped

# Multiples of the golden ratio modulo 1 leave no large gap in any window (Weyl; Kronecker
# sequence). In 64 bits they are exact at any number.
_GOLDEN = np.uint64((math.isqrt(5 << 128) - (1 << 64)) // 2)
# Which of the numbers that a seed gives are for what.
_TIMES, _LEVELS = 0, 1


class Noise:
    """Times and noise of a run's examples."""

    def __init__(self, seed: int, time_warp: float = 1.0):
        """Begins the sequence of times where the seed says; see stratified_times() for the warp."""
        (self._first,) = np.random.SeedSequence((seed, _TIMES)).generate_state(1, np.uint64)
        self._warp = time_warp
        self._key = np.random.SeedSequence((seed, _LEVELS)).generate_state(2, np.uint64)

    def times(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (times, weights) [n] of examples [n], float32; see Times.

        They are spread evenly over [0, 1) in any window of numbers, as strata would be.
        """
        place = self._first + numbers.astype(np.uint64) * _GOLDEN
        t, weight = warped(place * 2.0**-64, self._warp)
        return t.astype(np.float32), weight.astype(np.float32)

    def levels(self, numbers: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns the uniform numbers [sum of lengths, 2] of examples' tokens; see events()."""
        # One generator that goes from example to example: making one takes ten times as long.
        bits = np.random.Philox(key=self._key)
        return np.concatenate(
            [
                _draw(bits, number, length)
                for number, length in zip(numbers.tolist(), lengths.tolist(), strict=True)
            ]
        )


def _draw(bits: np.random.Philox, number: int, length: int) -> np.ndarray:
    """Returns the first numbers [length, 2] that stand behind a counter of the example's own."""
    state = bits.state
    state["state"]["counter"][:] = (0, number, 0, 0)
    state["buffer_pos"], state["has_uint32"] = 4, 0
    bits.state = state
    return np.random.Generator(bits).random((length, 2))
