"""A trained model, opened from its workdir alone, and what it generates."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.data.tokenizers import Tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import nearest
from flexmdm_jax.files import json_text
from flexmdm_jax.generation.engine import Completions, Engine
from flexmdm_jax.generation.parsing import SETTINGS, sampler_of
from flexmdm_jax.generation.pools import Job, Row
from flexmdm_jax.generation.requests import Request, shown, whole
from flexmdm_jax.generation.results import Result
from flexmdm_jax.generation.scoring import Score, encode_prompted
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.generation.texts import visible
from flexmdm_jax.generation.trace.frames import Frame
from flexmdm_jax.generation.writer import Seen, Writer
from flexmdm_jax.ranges import Seed
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.checkpoints import restore_average
from flexmdm_jax.training.checksums import array_checksums
from flexmdm_jax.training.frozen import load_frozen
from flexmdm_jax.training.memory import check_sampling
from flexmdm_jax.training.state import Setup, parameter_shapes
from flexmdm_jax.training.tables import resize_tables
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
        stored = resize_tables(self.params, self.experiment.stored_shapes(self.params))
        return hashlib.sha256(json_text(array_checksums(stored)).encode()).hexdigest()[:16]

    @property
    def max_length(self) -> int:
        """Returns the slots of a row, END included."""
        return self.experiment.config.data.max_length

    def start(
        self, tokens: Sequence[int] | Int[np.ndarray, "_"], gaps: Sequence[int], canvas: int = 0
    ) -> Start:
        """Returns what a row grows from: given token ids, gaps among them, and MDM's canvas.

        Raises:
          UserError: If nothing fits, or the method cannot write there; see Start.of().
        """
        try:
            return Start.of(tokens, gaps, self.setup.process, self.max_length, canvas)
        except ValueError as error:
            raise UserError(str(error)) from None

    def complete(
        self,
        starts: Iterable[Start],
        sampler: SamplerConfig,
        *,
        batch_size: int,
        seed: int,
    ) -> Completions:
        """Returns a row grown from each start; row i's noise depends on (seed, i) alone.

        Args:
          starts: One or more.
          sampler: How to sample.
          batch_size: See Engine.
          seed: Decides all noise.

        Raises:
          UserError: If the network does not give what the sampler needs.
          ValueError: If there is no start, or blocks are asked for that cannot be filled.
        """
        self.setup.check_sampler(sampler)
        jobs = [Job(start, sampler, seed, number) for number, start in enumerate(starts)]
        if not jobs:
            raise ValueError("there is no start to grow a row from")
        engine = self._engine(min(batch_size, len(jobs)))
        return Completions.of(engine.complete(self.params, jobs))

    def grow(self, jobs: Iterable[Job], *, batch_size: int) -> Iterator[tuple[int, Frame | Row]]:
        """Yields (place of the job among them, its finished row) as soon as rows are finished.

        Args:
          jobs: Of watched ones every frame comes before the row.
          batch_size: See Engine; to the last bit, rows are the same for the same number alone.

        Raises:
          UserError: If the network does not give what a sampler needs.
          ValueError: If a job asks for what cannot be, see Scheduler.add().
        """

        def checked() -> Iterator[Job]:
            for job in jobs:
                self.setup.check_sampler(job.sampler)
                yield job

        return self._engine(batch_size).run(self.params, checked())

    def watch(
        self, start: Start, sampler: SamplerConfig, *, seed: int = 0
    ) -> tuple[list[Frame], Row]:
        """Returns (what a row looks like at the start and after every call, the finished row)."""
        self.setup.check_sampler(sampler)
        job = Job(start, sampler, seed, watched=True)
        *frames, (_, row) = self._engine(1).run(self.params, [job])
        return [frame for _, frame in frames], row

    def generate(
        self,
        given: str | Request | Iterable[str | Request],
        *,
        n: int = 1,
        seed: int = 0,
        batch_size: int = 64,
        **settings: Any,
    ) -> list[Result]:
        """Returns texts that continue, or fill the gaps of, what is given.

            >>> model.generate("Once upon a time", n=4, temperature=0.8)
            >>> model.generate(["One", "Two", Request.template("From <gap> to <gap>.")])

        Args:
          given: A prompt or a request, or several of them.
          n: Samples of each prompt; a request has its own number.
          seed: Of one prompt or request: with a sample's number, all noise. Of several: from it and
            what is given a seed is made for each, so they are what they would be in any company.
          batch_size: Samples at a time while they are short; see Engine.
          **settings: Of the sampler, as a request of `python -m flexmdm_jax.sample` has them:
            steps=64, sampler="exact", max_length=100.

        Returns:
          In the order of what is given, samples of a request one after another.

        Raises:
          UserError: If a setting is unknown or out of range, or what is given does not fit.
        """
        one = isinstance(given, str | Request)
        several = isinstance(given, Iterable) and not isinstance(given, Mapping) and not one
        requests = [self._request(x, n, settings) for x in (given if several else [given])]
        seed = whole("seed", seed, Seed)
        if one:
            requests = [dataclasses.replace(x, seed=_first(x.seed, seed)) for x in requests]
        requests = [x.seeded(seed) for x in requests]
        if not requests:
            return []
        writer = self.writer(min(batch_size, sum(x.n for x in requests)))
        return list(writer.answer(requests))

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        n: int = 1,
        seed: int = 0,
        batch_size: int = 64,
        **settings: Any,
    ) -> list[Result]:
        """Returns texts that lead from prefix to suffix; the rest is as for generate().

        >>> model.infill("def f(x):", "return y")[0].generated
        """
        request = Request.infill(prefix, suffix, n=n, sampler=_sampler(settings))
        return self.generate(request, seed=seed, batch_size=batch_size)

    def score(
        self,
        texts: Sequence[str],
        prompts: Sequence[str] | None = None,
        *,
        num_times: int = 32,
        batch_size: int = 64,
        seed: int = 0,
    ) -> Score:
        """Returns bounds on -log p of texts given their prompts, in nats, as nll_bound() has them.

        `model.score([" 4"], ["2 + 2 ="])` bounds how surprising ` 4` and then the end are behind
        `2 + 2 =`.

        Args:
          texts: What follows the prompts, up to its end.
          prompts: One for each text; None: nothing is given.
          num_times: Times per text; four times as many halve the errors.
          batch_size: Texts at a time, rounded up to a multiple of the devices that share them.
          seed: Decides all noise; that of text i depends on (seed, i) alone.

        Raises:
          UserError: If texts and prompts differ in number, a text is too long, or a number is
            out of range.
        """
        seed = whole("seed", seed, Seed)
        if min(num_times, batch_size) < 1:
            raise UserError(
                f"num_times = {num_times}, batch_size = {batch_size}; both must be at least 1"
            )
        sequences = encode_prompted(self.tokenizer, texts, prompts, self.max_length)
        rows = min(batch_size, max(1, len(sequences)))
        check_sampling(self.experiment.config, rows)
        scorer = self.setup.scorer(num_times, rows)
        with jax.set_mesh(self.setup.mesh):
            return scorer.of_sequences(self.params, sequences, length=self.max_length, seed=seed)

    def stream(self, given: str | Request, *, seed: int = 0, **settings: Any) -> Iterator[Frame]:
        """Yields what a text looks like, at the start and after every call of the network.

            >>> for frame in model.stream("Once"):
            ...     print(model.visible(frame))

        Args:
          given: A prompt, or a request of one sample.
          seed: Decides all noise.
          **settings: Of the sampler, see generate().

        Raises:
          UserError: As generate(), or if several samples are asked for.
        """
        request = self._request(given, 1, settings)
        if request.n != 1:
            raise UserError(f"n = {request.n}; one sample is streamed at a time")
        request = dataclasses.replace(request, seed=_first(request.seed, seed))
        events = self.writer(1).answer([request], watched=True)
        return (event.frame for event in events if isinstance(event, Seen))

    def visible(self, frame: Frame) -> str:
        """Returns a frame as a text, with a mark for every mask."""
        return visible(self.tokenizer, frame.tokens)

    def writer(self, batch_size: int) -> Writer:
        """Returns what answers requests, see Writer.

        Args:
          batch_size: Samples at a time while they are short; see Engine.
        """
        setup = self.setup
        return Writer(self._engine(batch_size), self.params, self.tokenizer, setup.check_sampler)

    def _request(self, given: str | Request, n: int, settings: dict[str, Any]) -> Request:
        if isinstance(given, str):
            return Request.prompt(given, n=n, sampler=_sampler(settings))
        if not isinstance(given, Request):
            raise UserError(
                f"{shown(given)} is neither a text nor a Request; of token ids make one, "
                "Request.prompt([5, 17, 9])"
            )
        if settings or n != 1:
            raise UserError("a Request has its own n and sampler; leave out n and the settings")
        return given

    def _engine(self, batch_size: int) -> Engine:
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size}; it must be at least 1")
        engine = self.setup.engine(batch_size)
        check_sampling(self.experiment.config, engine.rows(engine.max_length))
        return engine


def _sampler(settings: dict[str, Any]) -> SamplerConfig:
    """Returns the sampler of keyword arguments."""
    for name in settings:
        if name not in SETTINGS:
            raise UserError(f"unknown setting {name!r}{nearest(name, SETTINGS)}")
    return sampler_of({name: _plain(value) for name, value in settings.items()})


def _plain(value: Any) -> Any:
    """Returns one number of NumPy's or JAX's as Python's, and all else as it is."""
    if isinstance(value, np.generic | jax.Array) and value.ndim == 0:
        return value.item()
    return value


def _first(own: int | None, other: int) -> int:
    return other if own is None else own


def load(workdir: str | pathlib.Path, base: str = "", mesh: MeshConfig | None = None) -> Model:
    """Returns the model in a workdir, with its newest readable parameters.

    Args:
      workdir: Of a run.
      base: Where a LLaDA's frozen parameters lie, if not where its config says.
      mesh: How devices share it, if not as in its training.

    Raises:
      UserError: If there is no run, no readable checkpoint, the tokenizer or the base is another
        one, a base is given for another network than LLaDA, or the mesh does not fit the devices.
    """
    path = pathlib.Path(workdir)
    experiment = load_experiment(path)
    tokenizer = load_run_tokenizer(path, experiment)
    config = experiment.config
    if base and config.model.kind != "llada":
        kind = {"dit": "a DiT", "xlm": "of xlm-core"}[config.model.kind]
        raise UserError(f"--base={base}: the run in {path} is {kind} and has no base; leave it out")
    setup = Setup.of(config, experiment.vocabulary, make_mesh(mesh or config.mesh))
    if base and setup.trains_base:
        raise UserError(f"--base={base}: the run in {path} holds all of its model; leave it out")
    setup = dataclasses.replace(setup, base=base or setup.base)
    trained, frozen = parameter_shapes(setup)
    step, params = restore_average(path, experiment, trained)
    params = setup.whole(params, load_frozen(setup, frozen))
    # The parameters stay on the devices they were restored to.
    jax.block_until_ready(params)
    return Model(experiment, setup, tokenizer, step, params)
