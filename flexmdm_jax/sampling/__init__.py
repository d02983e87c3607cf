"""Samplers: the canvas they write on, what happens after a call of the network, and the loop."""

from flexmdm_jax.sampling.canvas import (
    Canvas,
    Marks,
    empty_canvas,
    insert_masks,
    masked_canvas,
    prefix_canvas,
    protect,
    remove,
    start_canvas,
)
from flexmdm_jax.sampling.correctors import CORRECTORS, Remask
from flexmdm_jax.sampling.events import EventByEvent
from flexmdm_jax.sampling.insertions import INSERTION_RULES, Binomial, ExactGaps, Poisson
from flexmdm_jax.sampling.leaps import EventsPerStep, Grid
from flexmdm_jax.sampling.loop import Samples, advance, check_canvas, cut_at_end, generate
from flexmdm_jax.sampling.parsing import parse_sampler
from flexmdm_jax.sampling.settings import SamplerConfig
from flexmdm_jax.sampling.state import Settings, State
from flexmdm_jax.sampling.unmasking import (
    CONFIDENCES,
    RULES,
    Adaptive,
    EntropyBound,
    ExactRate,
    TauLeaping,
    Threshold,
)

__all__ = [
    "CONFIDENCES",
    "CORRECTORS",
    "INSERTION_RULES",
    "RULES",
    "Adaptive",
    "Binomial",
    "Canvas",
    "EntropyBound",
    "EventByEvent",
    "EventsPerStep",
    "ExactGaps",
    "ExactRate",
    "Grid",
    "Marks",
    "Poisson",
    "Remask",
    "SamplerConfig",
    "Samples",
    "Settings",
    "State",
    "TauLeaping",
    "Threshold",
    "advance",
    "check_canvas",
    "cut_at_end",
    "empty_canvas",
    "generate",
    "insert_masks",
    "masked_canvas",
    "parse_sampler",
    "prefix_canvas",
    "protect",
    "remove",
    "start_canvas",
]
