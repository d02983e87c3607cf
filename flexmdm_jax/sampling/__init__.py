"""Samplers: the canvas they write on, one leap in time, and the loop over a time grid."""

from flexmdm_jax.sampling.canvas import (
    Canvas,
    empty_canvas,
    insert_masks,
    masked_canvas,
    prefix_canvas,
    protect,
    start_canvas,
)
from flexmdm_jax.sampling.insertions import INSERTION_RULES, Binomial, Poisson
from flexmdm_jax.sampling.loop import SamplerConfig, Samples, check_blocks, generate
from flexmdm_jax.sampling.parsing import parse_sampler
from flexmdm_jax.sampling.steps import CONFIDENCES, RULES, Adaptive, ExactRate, TauLeaping

__all__ = [
    "CONFIDENCES",
    "INSERTION_RULES",
    "RULES",
    "Adaptive",
    "Binomial",
    "Canvas",
    "ExactRate",
    "Poisson",
    "SamplerConfig",
    "Samples",
    "TauLeaping",
    "check_blocks",
    "empty_canvas",
    "generate",
    "insert_masks",
    "masked_canvas",
    "parse_sampler",
    "prefix_canvas",
    "protect",
    "start_canvas",
]
