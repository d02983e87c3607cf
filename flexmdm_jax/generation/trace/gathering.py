"""What a writer tells of rows that are watched, sorted by sample and by call of the network."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flexmdm_jax.generation.requests import Failure
from flexmdm_jax.generation.results import Result
from flexmdm_jax.generation.trace.frames import Frame, Trace
from flexmdm_jax.generation.writer import Seen

# Of a result, what is shown beside its trace.
_SHOWN = ("seed", "calls", "length", "truncated", "cut_short")


class Gathering:
    """The frames of every sample, by its name."""

    def __init__(self):
        self._frames: dict[str, list[Frame]] = {}
        self._details: dict[str, dict[str, Any]] = {}

    def calls(
        self,
        events: Iterable[Result | Failure | Seen],
        take: Callable[[Result | Failure], None],
    ) -> Iterator[dict[str, Frame]]:
        """Yields the frames of a call of the network, by the names of samples.

        Args:
          events: Of Writer.answer().
          take: Is given the results among them.
        """
        frames: dict[str, Frame] = {}
        for event in events:
            if not isinstance(event, Seen):
                take(event)
                self._finish(event)
                continue
            name = _name(event.request.id, event.sample)
            self._frames.setdefault(name, []).append(event.frame)
            if name in frames:
                yield frames
                frames = {}
            frames[name] = event.frame
        if frames:
            yield frames

    def _finish(self, result: Result | Failure) -> None:
        if isinstance(result, Result):
            details = {name: getattr(result, name) for name in _SHOWN}
            self._details[_name(result.id, result.sample)] = details

    def traces(self) -> list[Trace]:
        """Returns the traces of finished samples."""
        return [
            Trace(name, tuple(self._frames[name]), details)
            for name, details in self._details.items()
        ]


def _name(request: str | int, sample: int) -> str:
    return f"{request}.{sample}"
