"""Tokens a second that the engine writes with the network of configs/owt.py, untrained."""

from collections.abc import Iterator

from benchmarks.engine_rates import Size, of_engine
from benchmarks.gpu_sections.section import Context, Row
from flexmdm_jax.sampling import SamplerConfig

_REPETITIONS = 3


def run(context: Context) -> Iterator[Row]:
    """Yields generated tokens a second, texts having the lengths of OpenWebText's paragraphs."""
    sampling, training = context.sizes.sampling, context.sizes.training
    size = Size(
        vocabulary=training.vocabulary,
        length=sampling.length,
        rows=sampling.rows,
        hidden=training.model.get("hidden_size", 768),
        layers=training.model.get("num_layers", 12),
        heads=training.model.get("num_heads", 12),
        dtype="bfloat16",
        unroll=False,
    )
    for calls in sampling.calls:
        rate = of_engine(size, SamplerConfig(steps=calls), sampling.num, _REPETITIONS)
        figures = {
            "tokens/s": rate.per_second,
            "tokens a text": rate.tokens / sampling.num,
            "seconds": rate.seconds,
        }
        yield Row(f"{calls} calls, {sampling.num} texts", figures)
