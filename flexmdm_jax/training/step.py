"""One training step as a pure function of state and batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from flexmdm_jax.config import Config, TrainingConfig
from flexmdm_jax.interpolant import corrupt, stratified_times
from flexmdm_jax.losses import training_loss
from flexmdm_jax.sharding import batch_sharding, replicated
from flexmdm_jax.training.optimizer import learning_rate_schedule, update_ema
from flexmdm_jax.training.state import Setup, TrainState
from flexmdm_jax.types import Batch, RowKeys, fold_in_rows

Metrics = dict[str, Float[Array, ""]]


def row_keys(rng: jax.Array, step: Int[Array, ""], index: Int[Array, "b"]) -> RowKeys:
    """Returns a key per row from the run's key data, the step and the row's global number.

    A row's noise is the same on any mesh, number of hosts or way of accumulating gradients.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(rng), step)
    return fold_in_rows(key, index)


def make_loss(setup: Setup, config: TrainingConfig):
    """Returns loss(params, batch, keys) -> (nats per token of x₁, metrics) with all its noise."""

    def loss(params, batch: Batch, keys: RowKeys):
        split = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        time_keys, noise_keys, dropout_keys = split[:, 0], split[:, 1], split[:, 2]
        stratum = (batch.index % config.batch_size)[:, None]
        times = stratified_times(time_keys, stratum, config.batch_size, config.time_warp)
        x = corrupt(noise_keys, batch, times.t, setup.process)
        denoiser = setup.denoiser(params, dropout_keys if setup.model.dropout_rate else None)
        return training_loss(denoiser, x, times, setup.process, num_groups=setup.num_groups)

    return loss


def make_train_step(
    config: Config,
    setup: Setup,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    mean_length: float,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the jitted step (state, batch) -> (state, metrics); the old state is donated.

    A step whose loss or gradient is not finite changes nothing but the step number, and its
    metric `finite` is 0.

    Args:
      config: The experiment.
      setup: Its model and process.
      optimizer: From make_optimizer().
      shardings: Of the state.
      mean_length: Tokens of a sequence on average, END not counted. The loss is nats per row
        divided by it: a batch's own tokens would count a sequence for more the shorter those are
        that it shares a batch with, and buckets put short ones together.
    """
    loss_of_all = make_loss(setup, config.training)
    learning_rate = learning_rate_schedule(config.optimizer, config.training.num_steps)
    num_parts = config.training.accumulation_steps

    def step(state: TrainState, batch: Batch):
        keys = row_keys(state.rng, state.step, batch.index)

        def loss(params, batch, keys):
            return loss_of_all(setup.whole(params, state.frozen), batch, keys)

        grads, metrics = _accumulate(loss, state.params, batch, keys, num_parts, mean_length)
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


def _accumulate(loss, params, batch, keys, num_parts, mean_length) -> tuple[Any, Metrics]:
    """Returns gradients and metrics of the whole batch, computed in num_parts parts.

    Each part counts by its tokens, so the result does not depend on the split.
    """
    expected_tokens = batch.tokens.shape[0] * mean_length

    def weighted(params, batch, keys):
        value, metrics = loss(params, batch, keys)
        weight = metrics["num_tokens"] / expected_tokens
        metrics = {"loss": value, **metrics}
        scaled = {
            name: metric * (1.0 if name.startswith("num_") else weight)
            for name, metric in metrics.items()
        }
        return value * weight, scaled

    gradient = jax.grad(weighted, has_aux=True)
    if num_parts == 1:
        return gradient(params, batch, keys)

    def of_part(rows):
        return gradient(params, Batch(**rows["batch"]), rows["keys"])

    def add_part(total, rows):
        return jax.tree.map(jnp.add, total, of_part(rows)), None

    def divide(x):
        # Neighbouring rows go to different parts, so every device works on each of them.
        return jnp.moveaxis(x.reshape(-1, num_parts, *x.shape[1:]), 1, 0)

    parts = jax.tree.map(divide, {"batch": vars(batch), "keys": keys})
    shapes = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add_part, zeros, parts)
    return total
