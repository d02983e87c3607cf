"""Who prepares the units of a corpus: this process, several, or an Apache Beam pipeline."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Sequence

from tqdm import tqdm

from flexmdm_jax.data.preparation.units import Runner, Work
from flexmdm_jax.errors import UserError
from flexmdm_jax.progress import progress_bar


def processes(workers: int) -> Runner:
    """Returns a runner with a progress bar: so many processes, or this one for one unit."""

    def run(work: Work, numbers: list[int]) -> None:
        done = len(work.units) - len(numbers)
        with progress_bar(total=len(work.units), initial=done, **_BAR) as bar:
            if workers == 1 or len(numbers) <= 1:
                for number in numbers:
                    _advance(bar, work.run(number))
            else:
                _run_pool(work, numbers, workers, bar)

    return run


_BAR = {"desc": "prepare", "unit": "shard"}


def _advance(bar: tqdm, counts: dict[str, int]) -> None:
    bar.set_postfix(documents=f"{counts['documents']:,}", refresh=False)
    bar.update()


def _run_pool(work: Work, numbers: list[int], workers: int, bar: tqdm) -> None:
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(numbers)),
        # A process that has started JAX must not be forked.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(work,),
    )
    try:
        for future in concurrent.futures.as_completed(
            [pool.submit(_run_unit, number) for number in numbers]
        ):
            _advance(bar, future.result())
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(
            "a worker process was killed (out of memory?); run the same command again, "
            "with fewer --workers if it happens again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


# What a worker process works on: pickled once a process, not once a unit.
_work: Work


def _start_worker(work: Work) -> None:
    global _work
    _work = work
    # The workers are the parallelism; threads of Hugging Face's tokenizers would add to it.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _run_unit(number: int) -> dict[str, int]:
    return _work.run(number)


def beam(options: Sequence[str]) -> Runner:
    """Returns a runner that is an Apache Beam pipeline over the units.

    Every machine must see the corpus and the folder of the preparation under the same names. A unit
    that Beam runs twice is written twice, with the same bytes, and counted once.

    Args:
      options: Of the pipeline, as Beam's command line takes them: --runner=…

    Raises:
      UserError: If Beam is not installed.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError(
            "--runner=beam needs Apache Beam: pip install 'flexmdm-jax[beam]'"
        ) from None

    def run(work: Work, numbers: list[int]) -> None:
        with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            (
                pipeline
                | "units" >> apache_beam.Create(numbers)
                | "spread" >> apache_beam.Reshuffle()
                | "prepare" >> apache_beam.Map(work.run)
            )

    return run
