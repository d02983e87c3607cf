"""What a training says on a terminal: a progress bar, and a line above it for what happens."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from tqdm import tqdm

from flexmdm_jax.config import DataConfig
from flexmdm_jax.progress import progress_bar

# Figures of an evaluation that a line has room for, as metrics.jsonl calls them.
_TOLD = ("nats_per_token", "perplexity", "length_w1", "length_tv", "token_entropy")
_SAMPLES, _CHARACTERS = 3, 100


class Console:
    """The bar and its lines, on standard error; only process 0 says anything."""

    def __init__(self, start: int, total: int):
        """Starts at a step, and says so if it is not the first."""
        self._silent = jax.process_index() != 0
        self._said: set[str] = set()
        if start:
            self.tell(f"taking the run up after step {start:,}")
        self._bar = progress_bar(
            initial=start, total=total, desc="train", unit="step", disable=self._silent
        )

    def tell(self, line: str) -> None:
        """Writes a line above the bar."""
        if not self._silent:
            tqdm.write(line, file=sys.stderr)

    def tell_once(self, about: str, line: str) -> None:
        """Writes a line above the bar, unless one about the same has been written before."""
        if about not in self._said:
            self._said.add(about)
            self.tell(line)

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Says that something is being compiled, and how long it took."""
        self.tell(f"compiling {what}: once, and for a large model it may take minutes")
        started = time.perf_counter()
        yield
        self.tell(f"compiled {what} in {time.perf_counter() - started:.1f} s")

    def advance(self) -> None:
        """Counts one step."""
        self._bar.update()

    def show(self, line: dict[str, float]) -> None:
        """Shows the newest figures, of a line of metrics."""
        self._bar.set_postfix_str(
            f"loss {line['loss']:.3f}, {line['tokens_per_second']:,.0f} tokens/s, "
            f"{line['sequences_per_second']:,.0f} sequences/s, {line['fill']:.0%} full"
        )

    def say(self, what: str) -> None:
        """Shows what goes on while no step is taken."""
        self._bar.set_postfix_str(what)

    def evaluated(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        """Writes the figures of an evaluation that say most, as metrics.jsonl names them."""
        names = [name for name in _TOLD if name in metrics] or list(metrics)[: len(_TOLD)]
        figures = ", ".join(f"{name} {metrics[name]:.4g}" for name in names)
        self.tell(f"step {step:,}: held out, {figures} ({seconds:.0f} s)")

    def sampled(self, step: int, samples: Sequence[dict[str, Any]]) -> None:
        """Writes the beginnings of a few texts, a line each."""
        for sample in samples[:_SAMPLES]:
            # What would move the cursor or end the line is shown as Python writes it.
            text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in sample["text"])
            cut = text if len(text) <= _CHARACTERS else text[:_CHARACTERS] + "..."
            self.tell(f"step {step:,}: [{sample['length']} tokens] {cut}")

    def saved(self, step: int, folder: pathlib.Path, keep: int) -> None:
        """Writes where checkpoints are, the first time; later ones are seen on the bar alone."""
        self.tell_once("saving", f"checkpoints: {folder}, of which the newest {keep} stay")
        self.say(f"saved step {step:,}")

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


def padding_warning(fill: float, config: DataConfig) -> str:
    """Returns a warning if more than half of the slots are padding, with what mends it; or "".

    Args:
      fill: Share of slots that hold something.
      config: How sequences lie in rows.
    """
    if fill >= 0.5:
        return ""
    mends = "config.data.packing=True puts several sequences into a row"
    if config.packing:
        mends = (
            f"config.data.max_segments={2 * config.segments} lets a row hold more sequences, "
            "config.data.row_length makes rows longer"
        )
    return f"warning: {1 - fill:.0%} of all slots are padding, and cost as much; {mends}"
