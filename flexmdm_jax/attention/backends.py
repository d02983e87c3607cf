"""The implementations attention() chooses from, and how it chooses."""

import dataclasses
import functools
from collections.abc import Callable

from flexmdm_jax.attention import cudnn, pallas_gpu
from flexmdm_jax.attention.calls import Call
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
      objection: Call -> why it cannot do that call, behind "the … attention "; empty if it can.
      attend_causal: The same as attend, seeing only what stands before; None if it cannot.
    """

    attend: Callable
    platforms: tuple[str, ...] = ()
    advice: str = ""
    objection: Callable[[Call], str] = lambda call: ""
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
        functools.partial(shard_attention, cudnn.attention_cudnn),
        platforms=("gpu",),
        advice="choose 'xla'",
        objection=cudnn.objection,
    ),
    "pallas_gpu": Backend(
        functools.partial(shard_attention, pallas_gpu.attention_pallas_gpu),
        platforms=("gpu",),
        advice="choose 'xla'",
        objection=pallas_gpu.objection,
    ),
}

# Of each platform, best first; the first that can do a call does it, and "xla" can do them all.
DEFAULTS = {"tpu": ("pallas",), "gpu": ("cudnn", "pallas_gpu")}


@dataclasses.dataclass(frozen=True)
class Choice:
    """The backend for a call.

    Attributes:
      name: In BACKENDS.
      passed_over: Why those that the platform would prefer cannot do it.
    """

    name: str
    passed_over: tuple[str, ...] = ()


def choose_backend(name: str | None, platform: str, call: Call) -> Choice:
    """Returns the backend that does a call.

    Args:
      name: One of BACKENDS, to have that one or an error; None lets the platform decide.
      platform: As current_platform() names it.
      call: What is to be done.

    Raises:
      ValueError: If there is no backend of that name, or it cannot do the call on this platform.
    """
    if name is None:
        passed_over = []
        for preferred in DEFAULTS.get(platform, ()):
            if not (why := _objection(preferred, call)):
                return Choice(preferred, tuple(passed_over))
            passed_over.append(f"{preferred} {why}")
        return Choice("xla", tuple(passed_over))
    if name not in BACKENDS:
        raise ValueError(
            f"unknown attention implementation {name!r}; choose one of {', '.join(BACKENDS)}"
        )
    backend = BACKENDS[name]
    if backend.platforms and platform not in backend.platforms:
        raise ValueError(
            f"attention implementation {name!r} runs on {' or '.join(backend.platforms)} only and "
            f"this program is for {platform}; {backend.advice}"
        )
    if why := _objection(name, call):
        raise ValueError(f"attention implementation {name!r} {why}; choose 'xla'")
    return Choice(name)


def _objection(name: str, call: Call) -> str:
    backend = BACKENDS[name]
    if call.causal and backend.attend_causal is None:
        return "always sees both ways and this call is causal"
    return backend.objection(call)
