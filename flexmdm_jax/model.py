"""A trained model, opened from its workdir alone, and what it generates."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from flexmdm_jax.data.tokenizers import Tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.files import json_text
from flexmdm_jax.generation.engine import CanvasOf, Completions
from flexmdm_jax.sampling import SamplerConfig, Samples, check_canvas, start_canvas
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.checkpoints import Checkpoints
from flexmdm_jax.training.checksums import array_checksums
from flexmdm_jax.training.frozen import load_frozen
from flexmdm_jax.training.memory import check_sampling
from flexmdm_jax.training.state import Setup, parameter_shapes
from flexmdm_jax.training.workdir import Experiment, load_experiment, load_run_tokenizer


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model with all that belongs to it.

    Attributes:
      experiment: Config and vocabulary.
      setup: Network and process.
      tokenizer: The one it was trained with.
      step: Steps behind the parameters.
      params: Averaged parameters, frozen ones included.
    """

    experiment: Experiment
    setup: Setup
    tokenizer: Tokenizer
    step: int
    params: Any

    def digest(self) -> str:
        """Returns a name for the parameters, bit for bit; every process of a run has to ask."""
        return hashlib.sha256(json_text(array_checksums(self.params)).encode()).hexdigest()[:16]

    @property
    def max_length(self) -> int:
        """Returns the slots of a row, END included."""
        return self.experiment.config.data.max_length

    def complete(
        self,
        canvas_of: CanvasOf,
        sampler: SamplerConfig,
        *,
        num: int,
        batch_size: int,
        seed: int,
    ) -> Completions:
        """Returns num rows grown from canvases; row i's noise depends on (seed, i) alone.

        Args:
          canvas_of: Numbers of rows -> what they are grown from.
          sampler: How to sample.
          num: Rows in all.
          batch_size: Rows at a time; rounded up to a multiple of the devices that share them.
          seed: Decides all noise.

        Raises:
          UserError: If the network does not give what the sampler needs.
          ValueError: If blocks are asked for that cannot be filled.
        """
        check_sampling(self.experiment.config, min(batch_size, num))
        engine = self.setup.engine(sampler, min(batch_size, num))
        return engine.complete(self.params, canvas_of, num=num, seed=seed)

    def generate(
        self,
        sampler: SamplerConfig,
        *,
        num: int,
        batch_size: int = 64,
        seed: int = 0,
        prefix: str = "",
        suffix: str = "",
        first: int = 0,
    ) -> Iterator[dict[str, Any]]:
        """Returns an iterator over num samples: dicts of text, tokens, length, and figures.

        The figures are calls, inserted, broken, truncated and cut_short, see Samples.

        Args:
          sampler: How to sample.
          num: Samples; sample i depends on (seed, i) alone.
          batch_size: Samples at a time, rounded up to a multiple of the devices that share them.
          seed: Decides all noise.
          prefix: Text to continue.
          suffix: Text to lead up to, FlexMDM only.
          first: Leave out the samples before this one.

        Raises:
          UserError: At once, if nothing is asked for, prefix and suffix leave no room, or the
            method cannot take a suffix, blocks or the insertion rule.
        """
        process, encode = self.setup.process, self.tokenizer.encode
        if min(num, batch_size) < 1:
            raise UserError(f"num = {num}, batch_size = {batch_size}; both must be at least 1")
        check_sampling(self.experiment.config, min(batch_size, num))
        engine = self.setup.engine(sampler, min(batch_size, num))
        try:
            canvas = start_canvas(
                engine.rows,
                self.max_length,
                process,
                prefix=tuple(encode(prefix)),
                suffix=tuple(encode(suffix)),
            )
            check_canvas(canvas, sampler, process)
        except ValueError as error:
            raise UserError(str(error)) from None
        batches = engine.batches(self.params, lambda _: canvas, num=num, seed=seed, first=first)
        return self._records(batches)

    def _records(self, batches: Iterator[Samples]) -> Iterator[dict[str, Any]]:
        for batch in batches:
            for i, sequence in enumerate(batch.sequences()):
                tokens = sequence.tolist()
                yield {
                    "text": self.tokenizer.decode(tokens),
                    "tokens": tokens,
                    "length": len(tokens),
                    "calls": int(batch.calls[i]),
                    "inserted": int(batch.inserted[i]),
                    "broken": int(batch.broken[i]),
                    "truncated": bool(batch.truncated[i]),
                    "cut_short": bool(batch.cut_short[i]),
                }


def load(workdir: str | pathlib.Path, base: str = "") -> Model:
    """Returns the model in a workdir, with its newest readable parameters.

    Args:
      workdir: Of a run.
      base: Where a LLaDA's frozen parameters lie, if not where its config says.

    Raises:
      UserError: If there is no run, no readable checkpoint, the tokenizer or the base is another
        one, or a base is given for a DiT.
    """
    path = pathlib.Path(workdir)
    experiment = load_experiment(path)
    tokenizer = load_run_tokenizer(path, experiment)
    config = experiment.config
    if base and config.model.kind != "llada":
        raise UserError(f"--base={base}: the run in {path} is a DiT and has no base; leave it out")
    setup = Setup.of(config, experiment.vocabulary, make_mesh(config.mesh))
    setup = dataclasses.replace(setup, base=base or setup.base)
    trained, frozen = parameter_shapes(setup)
    checkpoints = Checkpoints(path, experiment, read_only=True)
    step, params = checkpoints.restore_ema(trained)
    checkpoints.close()
    params = setup.whole(params, load_frozen(setup, frozen))
    # The parameters stay on the devices they were restored to.
    jax.block_until_ready(params)
    return Model(experiment, setup, tokenizer, step, params)
