"""A network that knows the letters and no word: rows of it take few calls and compile fast."""

import functools

import jax
import jax.numpy as jnp

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.data.tokenizers.utf8 import ByteTokenizer
from flexmdm_jax.generation.engine import Engine
from flexmdm_jax.generation.writer import Writer
from flexmdm_jax.process import Process
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.types import Denoiser, Encoding

TOKENIZER = ByteTokenizer({})


def letters(_):
    """Returns a denoiser that misses a letter or two at every gap and knows no word."""

    def encode(tokens, segment_ids, alpha):
        gaps = jnp.where(segment_ids > 0, 1.5 * (1 - alpha), 0.0)
        return Encoding(hidden=jnp.zeros((*tokens.shape, 1)), gaps=gaps)

    def decode(hidden):
        ids = jnp.arange(TOKENIZER.vocabulary.size)
        likely = (ids >= ord("a")) & (ids <= ord("z"))
        return jnp.broadcast_to(jnp.where(likely, 0.0, -30.0), (*hidden.shape[:-1], len(ids)))

    return Denoiser(encode=encode, decode=decode)


@functools.cache
def writer(batch_size=3, length=40, denoiser=letters):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    process = Process(TOKENIZER.vocabulary)
    engine = Engine(denoiser, process, mesh, batch_size, length)
    return Writer(engine, None, TOKENIZER, lambda sampler: None)
