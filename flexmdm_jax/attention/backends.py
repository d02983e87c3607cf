"""The implementations attention() chooses from."""

import dataclasses
import functools
from collections.abc import Callable

from flexmdm_jax.attention.cudnn import attention_cudnn
from flexmdm_jax.attention.pallas_gpu import attention_pallas_gpu
from flexmdm_jax.attention.pallas_tpu import attention_pallas
from flexmdm_jax.attention.reference import attention_xla
from flexmdm_jax.attention.sharded import shard_attention


@dataclasses.dataclass(frozen=True)
class Backend:
    """One implementation.

    Attributes:
      attend: (q, k, v, segment_ids) -> output.
      platforms: Where it runs; empty = anywhere.
      advice: What to do where it does not run.
      attend_causal: The same, seeing only what stands before; None if it cannot.
    """

    attend: Callable
    platforms: tuple[str, ...] = ()
    advice: str = ""
    attend_causal: Callable | None = None


BACKENDS = {
    "xla": Backend(attention_xla, attend_causal=functools.partial(attention_xla, causal=True)),
    "pallas": Backend(
        functools.partial(shard_attention, attention_pallas),
        platforms=("tpu",),
        advice="choose 'xla', or 'pallas_interpret' to run the kernel slowly without a TPU; to "
        "compile for TPUs that are not attached, enter jax.set_mesh of their topology first",
    ),
    "pallas_interpret": Backend(
        functools.partial(shard_attention, functools.partial(attention_pallas, interpret=True))
    ),
    "cudnn": Backend(
        functools.partial(shard_attention, attention_cudnn),
        platforms=("gpu", "cuda"),
        advice="choose 'xla'",
    ),
    "pallas_gpu": Backend(
        functools.partial(shard_attention, attention_pallas_gpu),
        platforms=("gpu", "cuda"),
        advice="choose 'xla'",
    ),
}

# cuDNN knows padded rows but not packed ones, so a GPU takes it only when asked to.
DEFAULTS = {"tpu": "pallas"}
