"""Batches on the devices before the step that wants them."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from flexmdm_jax.data.batches.pipeline import TrainBatches
from flexmdm_jax.interpolant import Corrupted, Interpolant, Times


class DeviceBatches(Iterator[Corrupted]):
    """Training batches as global arrays; the next ones are sent while a step runs.

    The state says how many batches were taken, not how many were sent.
    """

    def __init__(
        self, batches: TrainBatches, sharding: jax.sharding.NamedSharding, *, ahead: int = 1
    ):
        """Sends each batch `ahead` batches before it is taken."""
        self._batches, self._sharding, self._ahead = batches, sharding, ahead
        self._sent: collections.deque[tuple[dict[str, int], Corrupted]] = collections.deque()
        self._state = batches.get_state()

    @property
    def expected(self) -> float:
        """Returns how many examples a batch holds on average."""
        return self._batches.expected

    def send_ahead(self) -> None:
        """Sends as many batches as may be under way; raises what is wrong with the first ones."""
        while len(self._sent) <= self._ahead:
            self._send()

    def __next__(self) -> Corrupted:
        self.send_ahead()
        self._state, batch = self._sent.popleft()
        return batch

    def _send(self) -> None:
        """Starts to copy the next batch; jax returns before it has arrived."""
        batch = corrupted(
            {
                name: jax.make_array_from_process_local_data(self._sharding, value)
                for name, value in next(self._batches).items()
            }
        )
        self._sent.append((self._batches.get_state(), batch))

    def get_state(self) -> dict[str, int]:
        """Returns the position behind the last batch taken."""
        return self._state

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position that get_state() returned."""
        self._batches.set_state(state)
        self._sent.clear()
        self._state = state


def corrupted(fields: dict[str, Any]) -> Corrupted:
    """Returns what TrainBatches yields as the structure that a training step takes.

    No gap is closed: a network learns that nothing is missing inside a prompt.
    """

    def of(kind: type) -> Any:
        names = [field.name for field in dataclasses.fields(kind) if field.name in fields]
        return kind(**{name: fields[name] for name in names})

    return Corrupted(of(Interpolant), of(Times), fields["index"])
