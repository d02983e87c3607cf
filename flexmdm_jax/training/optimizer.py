"""The optimizer and the moving average of the parameters."""

import jax
import jax.numpy as jnp
import optax

from flexmdm_jax.config import OptimizerConfig


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Returns step -> learning rate: linear warm-up, then constant or cosine down to zero."""
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    if config.decay == "cosine":
        rest = optax.cosine_decay_schedule(
            config.learning_rate, max(num_steps - config.warmup_steps, 1)
        )
    else:
        rest = optax.constant_schedule(config.learning_rate)
    if not config.warmup_steps:
        return rest
    return optax.join_schedules([warmup, rest], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Returns AdamW behind clipping by global norm; matrices decay, vectors do not."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, num_steps),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=_decayed,
        ),
    )


def _decayed(params):
    """Returns True for kernels and embeddings: what has two axes besides that of the layers."""

    def is_matrix(path, leaf):
        stacked = any(getattr(key, "key", None) == "blocks" for key in path)
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
