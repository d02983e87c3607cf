"""The demo from beginning to end: prepared, trained, interrupted, taken up, sampled, evaluated."""

import dataclasses
import json
import pathlib
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.gpu_sections.section import Context, Row
from flexmdm_jax.config import Config, load_config_file, read_config
from flexmdm_jax.data.preparation import runners
from flexmdm_jax.data.preparation.units import Plan, prepare_dataset
from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.evaluation.suite import Evaluator
from flexmdm_jax.model import load
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.loop import train
from flexmdm_jax.training.state import Setup

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "demo.py"
_TEXTS = 8


def run(context: Context) -> Iterator[Row]:
    """Yields whether the demo goes through, and whether a resumed loss continues."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare(pathlib.Path(folder, "data"))
        yield Row("prepared", {"mean tokens": dataset.mean_length}, passed=True)
        config = config_of(dataset, context.sizes.demo_steps)
        workdir = pathlib.Path(folder, "run")
        at = Interrupted(config, dataset, workdir)
        yield at.first()
        yield at.resumed()
        model = load(workdir)
        texts = model.generate("", n=_TEXTS, steps=16)
        lengths = [text.length for text in texts]
        shown = {"texts": len(texts), "mean tokens": float(np.mean(lengths))}
        yield Row("sampled", shown, passed=len(texts) == _TEXTS and max(lengths) > 0)
        bound = model.score([text.text for text in texts], num_times=2).summary()
        nats = bound["nats_per_token"]
        yield Row("scored", {"nats a token": nats}, passed=bool(np.isfinite(nats)))


def prepare(folder: pathlib.Path) -> Dataset:
    """Returns the dataset of `make data/demo`."""
    plan = Plan(
        source="stdlib", tokenizer="sentencepiece:400", max_length=64, validation_fraction=0.15
    )
    return prepare_dataset(folder, plan, runners.processes(1))


def config_of(dataset: Dataset, steps: int) -> Config:
    """Returns the demo's experiment on one device, with so many steps and few evaluations."""
    values = load_config_file(str(CONFIG))
    values.data.path = str(dataset.directory)
    values.training.update(
        num_steps=steps, log_every=max(1, steps // 20), checkpoint_every=steps // 2
    )
    # Half way it is interrupted while it is evaluated.
    values.training.evaluate_every = steps // 2
    values.optimizer.warmup_steps = steps // 10
    values.evaluation.update(num_sequences=16, num_samples=16, num_steps=8, batch_size=16)
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

        def interrupted(evaluate: Any, params: Any) -> dict[str, float]:
            signal.raise_signal(signal.SIGTERM)
            return evaluate(params)

        step = self._train(interrupted)
        losses = list(self._losses().values())
        passed = 0 < step < self.config.training.num_steps and losses[-1] < losses[0]
        figures = {"steps": step, "first loss": losses[0], "last loss": losses[-1]}
        return Row("trained and interrupted", figures, passed)

    def resumed(self) -> Row:
        """Returns the row of the second half; its loss has to begin where the first one ended."""
        before = self._losses()
        step = self._train(lambda evaluate, params: evaluate(params))
        found = self._losses()
        new = [loss for number, loss in found.items() if number not in before]
        first, last = (list(before.values())[place] for place in (0, -1))
        # A run that began anew would be as bad as it was at first.
        continues = abs(new[0] - last) < abs(new[0] - first)
        whole = step == self.config.training.num_steps and set(before) < set(found)
        figures = {"steps": step, "loss before": last, "loss after": new[0], "last loss": new[-1]}
        return Row("resumed", figures, passed=continues and whole)

    def _train(self, look: Any) -> int:
        setup = Setup.of(
            self.config, self.dataset.vocabulary, make_mesh(self.config.mesh, jax.devices()[:1])
        )
        evaluation, length = self.config.evaluation, self.config.data.max_length
        evaluator = Evaluator(setup, self.dataset, evaluation, length, self.config.seed)
        with jax.set_mesh(setup.mesh):
            state = train(
                self.config,
                setup,
                self.dataset,
                self.workdir,
                lambda params: look(evaluator.metrics, params),
            )
        return int(state.step)

    def _losses(self) -> dict[int, float]:
        """Returns the losses that the run has logged, by step."""
        lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
        entries = map(json.loads, lines)
        return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}
