"""The optimizer and the moving average of the parameters."""

import fnmatch

import jax
import jax.numpy as jnp
import optax

from flexmdm_jax.config import OptimizerConfig
from flexmdm_jax.errors import UserError


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Returns step -> learning rate: linear warm-up, then what config.decay says.

    `cosine` falls to zero once, `cosine_restarts` num_cycles times in equal parts.
    """
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    num_rest = max(num_steps - config.warmup_steps, 1)
    if config.decay == "constant":
        rest = optax.constant_schedule(config.learning_rate)
    elif config.decay == "cosine":
        rest = optax.cosine_decay_schedule(config.learning_rate, num_rest)
    else:
        rest = _cosine_restarts(config.learning_rate, num_rest / config.num_cycles)
    if not config.warmup_steps:
        return rest
    return optax.join_schedules([warmup, rest], [config.warmup_steps])


def _cosine_restarts(peak: float, period: float) -> optax.Schedule:
    """Returns a cosine from peak to zero that starts anew every period steps."""
    return lambda step: peak * (1 + jnp.cos(jnp.pi * (step / period % 1.0))) / 2


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Returns AdamW behind clipping by global norm; matrices decay, vectors do not.

    Its init raises UserError if a pattern of group_learning_rates names no parameter.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, num_steps),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=_decayed,
        ),
        *([_scale_by_group(config)] if config.group_learning_rates else []),
    )


def _scale_by_group(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns what gives each group its own learning rate: an update is proportional to it.

    A group is a pattern of paths such as `*/lora_*` or `gap_head/*`; the first that fits counts.
    """
    rates = config.group_learning_rates

    def init(params):
        paths = ["/".join(_names(path)) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern in rates:
            if not fnmatch.filter(paths, pattern):
                raise UserError(
                    f"config.optimizer.group_learning_rates: no parameter fits {pattern!r}; they "
                    f"are {', '.join(paths)}"
                )
        return optax.EmptyState()

    def factor(path):
        name = "/".join(_names(path))
        fitting = (rate for pattern, rate in rates.items() if fnmatch.fnmatchcase(name, pattern))
        return next(fitting, config.learning_rate) / config.learning_rate

    def update(updates, state, params=None):
        del params
        scale = lambda path, x: factor(path) * x  # noqa: E731
        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(init, update)


def _names(path) -> list[str]:
    """Returns the keys on a path through dicts (and through the boxes of axis names)."""
    return [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]


def _decayed(params):
    """Returns True for kernels, embeddings and adapters: two axes besides that of the layers."""

    def is_matrix(path, leaf):
        names = _names(path)
        stacked = names[0] in ("blocks", "modulation")
        return leaf.ndim - stacked >= 2

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def update_ema(ema, params, step, decay: float):
    """Returns the moving average after a step (0-based).

    The decay grows as (1 + step) / (10 + step) up to its value, so that the random start is
    forgotten.
    """
    step = step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), ema, params)
