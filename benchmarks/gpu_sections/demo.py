"""The text demo from end to end: prepared, trained, interrupted, taken up, sampled, evaluated."""

import contextlib
import dataclasses
import io
import json
import pathlib
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.gpu_sections.section import Context, Row
from benchmarks.gpu_sections.sizes import Demo
from flexmdm_jax.config import Config, load_config_file, read_config
from flexmdm_jax.data.preparation import runners
from flexmdm_jax.data.preparation.units import Plan, prepare_dataset
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.evaluation.suite import Evaluator
from flexmdm_jax.model import load
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.loop import Evaluate, train
from flexmdm_jax.training.state import Setup

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "demo_text.py"
# Of the dataset's texts, END included.
_LENGTH = 64


def run(context: Context) -> Iterator[Row]:
    """Yields whether the text demo goes through, and whether a resumed loss continues."""
    size = context.sizes.demo
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare(pathlib.Path(folder, "data"))
        yield Row("prepared", {"tokens a text": dataset.mean_length}, passed=True)
        workdir = pathlib.Path(folder, "run")
        training = Interrupted(config_of(dataset, size), dataset, workdir)
        yield training.first()
        yield training.resumed()
        model = load(workdir)
        texts = model.generate("", n=size.texts, steps=16, batch_size=size.texts)
        mean = float(np.mean([text.length for text in texts]))
        figures = {"texts": len(texts), "tokens a text": mean}
        yield Row("sampled", figures, passed=len(texts) == size.texts)


def prepare(folder: pathlib.Path) -> Dataset:
    """Returns the dataset of `make data/demo_text`."""
    plan = Plan(
        source="stdlib",
        tokenizer="sentencepiece:400",
        max_length=_LENGTH,
        validation_fraction=0.15,
    )
    with _without_bars():
        return prepare_dataset(folder, plan, runners.processes(1))


def _without_bars() -> contextlib.AbstractContextManager:
    """Returns what keeps bars of progress from tearing the report's lines apart."""
    return contextlib.redirect_stderr(io.StringIO())


def config_of(dataset: Dataset, size: Demo) -> Config:
    """Returns the text demo's experiment, interrupted half way and evaluated at its end."""
    values = load_config_file(str(CONFIG))
    values.model.update(size.model)
    values.data.path = str(dataset.directory)
    half = size.steps // 2
    values.training.update(
        num_steps=size.steps,
        batch_size=size.rows,
        log_every=max(1, size.steps // 20),
        checkpoint_every=half,
        evaluate_every=half,
    )
    values.optimizer.warmup_steps = size.steps // 10
    few = {"num_sequences": size.texts, "num_samples": size.texts, "batch_size": size.texts}
    values.evaluation.update(few, num_steps=16)
    return read_config(values)


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """A training that is told to stop half way, and taken up again.

    Attributes:
      config: The experiment.
      dataset: Its data.
      workdir: Its folder.
    """

    config: Config
    dataset: Dataset
    workdir: pathlib.Path

    def first(self) -> Row:
        """Returns the row of the first half, which ends by SIGTERM."""

        def interrupt(_: Any) -> dict[str, float]:
            signal.raise_signal(signal.SIGTERM)
            return {}

        step = self._train(lambda _: interrupt)
        losses = [loss for _, loss in self._losses()]
        passed = 0 < step < self.config.training.num_steps and losses[-1] < losses[0]
        figures = {"steps": step, "first loss": losses[0], "last loss": losses[-1]}
        return Row("trained and interrupted", figures, passed)

    def resumed(self) -> Row:
        """Returns the row of the second half; its loss has to begin where the first one ended."""
        before = self._losses()
        step = self._train(self._evaluation)
        found = self._losses()
        figures = {"steps": step, "loss before": before[-1][1], "last loss": found[-1][1]}
        passed = step == self.config.training.num_steps and goes_on(before, found)
        return Row("resumed and evaluated", figures, passed)

    def _evaluation(self, setup: Setup) -> Evaluate:
        evaluation, length = self.config.evaluation, self.config.data.max_length
        return Evaluator(setup, self.dataset, evaluation, length, self.config.seed).metrics

    def _train(self, look: Callable[[Setup], Evaluate]) -> int:
        """Returns the steps taken in all, what look() gives being called to evaluate."""
        setup = Setup.of(self.config, self.dataset.vocabulary, make_mesh(self.config.mesh))
        with jax.set_mesh(setup.mesh), _without_bars():
            state = train(self.config, setup, self.dataset, self.workdir, look(setup))
        return int(state.step)

    def _losses(self) -> list[tuple[int, float]]:
        """Returns (step, loss) of each line that the run has logged."""
        lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
        entries = map(json.loads, lines)
        return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]


def goes_on(before: list[tuple[int, float]], found: list[tuple[int, float]]) -> bool:
    """Returns whether a run went on where it had stopped, and did not begin anew.

    Args:
      before: (step, loss) of each line that had been logged when it stopped.
      found: The same when it had been taken up.
    """
    new = found[len(before) :]
    if found[: len(before)] != before or not new:
        return False
    (_, first), (last_step, last) = before[0], before[-1]
    step, loss = new[0]
    # What begins anew is as bad as it was at first.
    return step == last_step + 1 and abs(loss - last) < abs(loss - first)
