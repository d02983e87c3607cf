"""One training step as a pure function of state and batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from flexmdm_jax.config import Config
from flexmdm_jax.interpolant import Corrupted
from flexmdm_jax.losses import training_loss
from flexmdm_jax.sharding import batch_sharding, replicated
from flexmdm_jax.training.optimizer import learning_rate_schedule, update_ema
from flexmdm_jax.training.state import Setup, TrainState
from flexmdm_jax.types import SegmentKeys

Metrics = dict[str, Float[Array, ""]]


def sequence_keys(rng: jax.Array, index: Int[Array, "b s"]) -> SegmentKeys:
    """Returns a key per sequence from the run's key data and the sequence's global number.

    Its noise is the same on any mesh, number of hosts or way of accumulating gradients, in a row of
    its own or packed with others.
    """
    key = jax.random.wrap_key_data(rng)
    return jax.vmap(jax.vmap(lambda number: jax.random.fold_in(key, number)))(index)


def make_loss(setup: Setup):
    """Returns loss(params, batch, rng) -> (nats per token of x₁, metrics)."""

    def loss(params, batch: Corrupted, rng: jax.Array):
        keys = sequence_keys(rng, batch.index) if setup.model.dropout_rate else None
        denoiser = setup.denoiser(params, keys)
        return training_loss(
            denoiser, batch.x, batch.times, setup.process, num_groups=setup.num_groups
        )

    return loss


def make_train_step(
    config: Config,
    setup: Setup,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    expected_tokens: float,
) -> Callable[[TrainState, Corrupted], tuple[TrainState, Metrics]]:
    """Returns the jitted step (state, batch) -> (state, metrics); the old state is donated.

    A step whose loss or gradient is not finite changes nothing but the step number, and its
    metric `finite` is 0.

    Args:
      config: The experiment.
      setup: Its model and process.
      optimizer: From make_optimizer().
      shardings: Of the state.
      expected_tokens: Tokens of x₁ that a batch holds on average, END not counted. The loss is the
        batch's nats divided by it: its own tokens would count a sequence for more the shorter those
        are that it shares a batch with, and buckets put short ones together.
    """
    loss_of_all = make_loss(setup)
    learning_rate = learning_rate_schedule(config.optimizer, config.training.num_steps)
    num_parts = config.training.accumulation_steps

    def step(state: TrainState, batch: Corrupted):
        def loss(params, batch):
            return loss_of_all(setup.whole(params, state.frozen), batch, state.rng)

        grads, metrics = _accumulate(loss, state.params, batch, num_parts, expected_tokens)
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = update_ema(state.ema, params, state.step, config.optimizer.ema_decay)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        kept = (state.params, state.ema, state.opt_state)
        params, ema, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (params, ema, opt_state), kept
        )
        metrics |= {
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(state.step),
            "finite": finite.astype(jnp.float32),
        }
        state = state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
        return state, metrics

    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(setup.mesh)),
        out_shardings=(shardings, replicated(setup.mesh)),
        donate_argnums=0,
    )


def _accumulate(loss, params, batch, num_parts, expected_tokens) -> tuple[Any, Metrics]:
    """Returns gradients and metrics of the whole batch, computed in num_parts parts.

    Each part counts by its tokens, so the result does not depend on the split.
    """

    def weighted(params, batch):
        value, metrics = loss(params, batch)
        # What the loss was divided by: a part may hold empty sequences only.
        weight = jnp.maximum(metrics["num_tokens"], 1.0) / expected_tokens
        metrics = {"loss": value, **metrics}
        scaled = {
            name: metric * (1.0 if name.startswith("num_") else weight)
            for name, metric in metrics.items()
        }
        return value * weight, scaled

    gradient = jax.grad(weighted, has_aux=True)
    if num_parts == 1:
        return gradient(params, batch)

    leaves, structure = jax.tree.flatten(batch)

    def of_part(part):
        return gradient(params, structure.unflatten(part))

    def add_part(total, part):
        return jax.tree.map(jnp.add, total, of_part(part)), None

    def divide(x):
        # Neighbouring rows go to different parts, so every device works on each of them.
        return jnp.moveaxis(x.reshape(-1, num_parts, *x.shape[1:]), 1, 0)

    parts = [divide(x) for x in leaves]
    shapes = jax.eval_shape(of_part, [x[0] for x in parts])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add_part, zeros, parts)
    return total
