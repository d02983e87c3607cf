"""Figures of a server in Prometheus' text format."""

import bisect
import collections
from collections.abc import Iterable, Mapping

# Seconds that a request takes: upper bounds of the histogram's buckets.
BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# Its media type.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts what happens; belongs to the event loop.

    Attributes:
      requests: Answers by (path, status); 499 is a client that left.
      tokens: Generated tokens.
      calls: Calls of the network, of each sample its own.
      samples: Finished samples.
    """

    def __init__(self):
        self.requests: collections.Counter[tuple[str, int]] = collections.Counter()
        self.tokens = self.calls = self.samples = 0
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Counts a request that took so long, from its arrival to the end of its answer."""
        self._buckets[bisect.bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds

    @property
    def mean_seconds(self) -> float:
        """Returns what requests took on average; 0 if there were none."""
        return self._seconds / max(1, sum(self._buckets))

    def text(self, gauges: Mapping[str, tuple[str, int]]) -> str:
        """Returns everything in Prometheus' format.

        Args:
          gauges: What holds now: by name, (what it is, value).
        """
        lines = list(_family("requests_total", "counter", "Answers by path and status."))
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'flexmdm_requests_total{{path="{path}",status="{status}"}} {count}')
        for name, what in (
            ("tokens", "Generated tokens."),
            ("calls", "Calls of the network, of each sample its own."),
            ("samples", "Finished samples."),
        ):
            lines += _family(f"{name}_total", "counter", what)
            lines.append(f"flexmdm_{name}_total {getattr(self, name)}")
        for name, (what, value) in gauges.items():
            lines += _family(name, "gauge", what)
            lines.append(f"flexmdm_{name} {value}")
        lines += self._histogram()
        return "\n".join(lines) + "\n"

    def _histogram(self) -> Iterable[str]:
        name = "request_seconds"
        yield from _family(name, "histogram", "From a request's arrival to the end of its answer.")
        count = 0
        for bound, own in zip((*BUCKETS, "+Inf"), self._buckets, strict=True):
            count += own
            yield f'flexmdm_{name}_bucket{{le="{bound}"}} {count}'
        yield f"flexmdm_{name}_sum {self._seconds:.6f}"
        yield f"flexmdm_{name}_count {count}"


def _family(name: str, kind: str, what: str) -> tuple[str, str]:
    return f"# HELP flexmdm_{name} {what}", f"# TYPE flexmdm_{name} {kind}"
