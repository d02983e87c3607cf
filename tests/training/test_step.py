"""The training step: invariant to how a batch is split, and careful with what is not finite."""

import copy
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from flexmdm_jax.config import read_config
from flexmdm_jax.data.batches.packing import Bins
from flexmdm_jax.data.batches.pipeline import configured_batches, train_batches
from flexmdm_jax.data.storage.records import TRAIN, VALIDATION, write_dataset
from flexmdm_jax.data.tokenizers import ByteTokenizer
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training import tables
from flexmdm_jax.training.feed import corrupted
from flexmdm_jax.training.optimizer import learning_rate_schedule, make_optimizer
from flexmdm_jax.training.state import Setup, init_state
from flexmdm_jax.training.step import make_train_step


def _mesh(config):
    """Returns the mesh of a config, on one device where it asks for no more."""
    alone = (config.data, config.fsdp, config.tensor) == (1, 1, 1)
    return make_mesh(config, jax.devices()[:1] if alone else None)


@functools.cache
def _start(text, vocabulary, descent):
    """Returns (setup, optimizer, the jitted first state, its shardings) of a config as JSON.

    Descent is plain, and not AdamW.
    """
    config = read_config(json.loads(text))
    setup = Setup.of(config, vocabulary, _mesh(config.mesh))
    adamw = make_optimizer(config.optimizer, config.training.num_steps)
    optimizer = optax.sgd(1.0) if descent else adamw
    make_state, shardings = init_state(setup, optimizer, config.seed)
    return setup, optimizer, jax.jit(make_state, out_shardings=shardings), shardings


@functools.cache
def _compiled(text, vocabulary, expected, descent):
    """Returns the jitted step; tests that take the same one share what it is compiled to."""
    setup, optimizer, _, shardings = _start(text, vocabulary, descent)
    return make_train_step(read_config(json.loads(text)), setup, optimizer, shardings, expected)


def _forget():
    for kept in (_start, _compiled):
        kept.cache_clear()


def _programs(values, dataset, expected, *, descent=False):
    """Returns (step, first state)."""
    text = json.dumps(values, sort_keys=True)
    _, _, first, _ = _start(text, dataset.vocabulary, descent)
    return _compiled(text, dataset.vocabulary, expected, descent), first()


def _batches(values, dataset):
    config = read_config(values)
    return configured_batches(config, dataset, config.process(dataset.vocabulary))


# Rows of any number.
ONE_DEVICE = {"data": 1, "fsdp": 1, "tensor": 1}


def _prepare(values, dataset):
    batches = _batches(values, dataset)
    step, state = _programs(values, dataset, batches.expected * dataset.mean_length)
    return step, state, map(corrupted, batches)


def _run(values, dataset, num_steps=3):
    step, state, batches = _prepare(values, dataset)
    history = []
    for _ in range(num_steps):
        state, metrics = step(state, next(batches))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def _gradient_of(rows, values, dataset):
    """The whole effect of one step of plain descent on these rows of the first batch."""
    expected = len(rows) * dataset.mean_length
    step, state = _programs(values, dataset, expected, descent=True)
    before = jax.device_get(state.params)
    batch = corrupted(next(_batches(values, dataset)))
    batch = jax.tree.map(lambda x: x[np.array(rows)], batch)
    state, _ = step(state, batch)
    return jax.tree.map(lambda x, y: x - y, before, jax.device_get(state.params)), batch


def _close(a, b, tolerance=2e-5):
    # float32 sums in another order, over three steps of AdamW.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=1e-4), a, b)


def _with(values, section, **changes):
    values = copy.deepcopy(values)
    values.setdefault(section, {}).update(changes)
    return values


def test_spare_rows_of_tables_change_nothing_and_stay_zero(tiny_config, tiny_dataset, monkeypatch):
    plain, history = _run(tiny_config, tiny_dataset)
    # Programs are kept by configs, which do not tell it.
    with monkeypatch.context() as patch:
        patch.setattr(tables, "_FEWEST", 1)
        _forget()
        padded, padded_history = _run(tiny_config, tiny_dataset)
    _forget()
    _close(history, padded_history)
    size = tiny_dataset.vocabulary.size
    assert padded.params["head"]["kernel"].shape[1] > size
    for x, y in zip(*map(jax.tree.leaves, (plain, padded)), strict=True):
        _close(x, y[tuple(slice(n) for n in x.shape)])
        assert np.abs(y).astype(float).sum() == pytest.approx(
            np.abs(y[tuple(slice(n) for n in x.shape)]).astype(float).sum()
        )


@pytest.mark.parametrize("method", ["flexmdm", "mdm"])
def test_result_does_not_depend_on_accumulation(tiny_config, tiny_dataset, method):
    config = _with(tiny_config | {"method": method}, "mesh", data=1, fsdp=1, tensor=8)
    config = _with(config, "model", num_heads=8)
    whole, whole_metrics = _run(config, tiny_dataset)
    split, split_metrics = _run(_with(config, "training", accumulation_steps=4), tiny_dataset)
    _close(whole.params, split.params)
    for a, b in zip(whole_metrics, split_metrics, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
        assert a["num_tokens"] == b["num_tokens"]
        assert a["num_masks"] == b["num_masks"], "noise differs"


def test_a_sequence_counts_the_same_in_any_company(tiny_config, tiny_dataset):
    """What eight rows add to the gradient does not depend on which of them share a batch."""
    values = _with(tiny_config, "mesh", **ONE_DEVICE)
    whole, batch = _gradient_of(range(8), values, tiny_dataset)
    order = np.argsort((batch.x.segment_ids > 0).sum(1))
    short, _ = _gradient_of(order[:4], values, tiny_dataset)
    long, _ = _gradient_of(order[4:], values, tiny_dataset)
    _close(whole, jax.tree.map(lambda x, y: (x + y) / 2, short, long), tolerance=1e-6)


def _step_of(values, dataset, batch, expected):
    """What plain descent does to the parameters in one step on a batch, and its metrics."""
    step, state = _programs(values, dataset, expected, descent=True)
    rng = np.random.default_rng(0)
    # In a fresh network, whole layers and their dropout have no effect.
    drawn = lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32)  # noqa: E731
    state = state.replace(params=jax.tree.map(drawn, state.params))
    before = jax.device_get(state.params)
    state, metrics = step(state, batch)
    after = jax.device_get(state.params)
    return jax.tree.map(lambda x, y: x - y, before, after), jax.device_get(metrics)


def test_empty_sequences_teach_even_if_they_are_alone(tiny_config, tmp_path):
    """A part of a batch that holds nothing else has no token, and yet a gap to learn from."""
    sequences = [(TRAIN, [])] * 24 + [(TRAIN, [5, 6, 7])] * 8 + [(VALIDATION, [1])]
    dataset = write_dataset(
        tmp_path / "d", sequences, ByteTokenizer({}), max_length=tiny.LENGTH, origin={}
    )
    process = read_config(tiny_config).process(dataset.vocabulary)
    batch = next(train_batches(dataset, process, length=tiny.LENGTH, batch_size=32, seed=0))
    empty = np.flatnonzero((batch["gaps"].sum(1) == 0) & ((batch["segment_ids"] > 0).sum(1) == 1))
    full = np.setdiff1d(np.arange(32), empty)[:8]
    assert len(full) == 8
    together, *parts = (
        _step_of(tiny_config, dataset, corrupted({k: x[rows] for k, x in batch.items()}), 10.0)[0]
        for rows in (np.concatenate([empty[:8], full]), empty[:8], full)
    )
    _close(together, jax.tree.map(np.add, *parts), tolerance=1e-5)
    assert max(np.abs(x).max() for x in jax.tree.leaves(parts[0])) > 1e-3


@pytest.mark.parametrize("kind", ["dit", "llada"])
def test_packed_rows_have_the_gradient_of_padded_ones(tiny_config, tiny_dataset, kind):
    """The same examples, a row each or several to a row, dropout and all."""
    values = _with(tiny_config, "mesh", **ONE_DEVICE)
    if kind == "llada":
        lora = {"rank": 2, "alpha": 4.0, "dropout_rate": 0.2, "targets": "q,v,down,head"}
        sizes = {"embedding_size": 300, "mlp_size": 24, "num_kv_heads": 2, "layers_per_group": 1}
        values["model"] |= {"kind": "llada", "dropout_rate": 0.0, "llada": sizes | {"lora": lora}}
        del values["model"]["condition_size"]
    else:
        values["model"] |= {"mark_start": True, "dropout_rate": 0.3}
    packed = _with(values, "data", packing=True, row_length=40, max_segments=7)
    packed["training"] |= {"batch_size": 3, "time_warp": 2.0}
    config = read_config(packed)
    process = config.process(tiny_dataset.vocabulary)
    make = functools.partial(
        train_batches, tiny_dataset, process, length=tiny.LENGTH, seed=0, time_warp=2.0
    )
    rows = next(make(batch_size=3, packed=Bins.of(config)))
    count = int(np.count_nonzero(rows["weight"]))
    alone = next(make(batch_size=count))
    outcomes = [_step_of(packed, tiny_dataset, corrupted(batch), 100.0) for batch in (rows, alone)]
    (packed_grads, packed_metrics), (padded_grads, padded_metrics) = outcomes
    assert count > 8
    assert max(np.abs(x).max() for x in jax.tree.leaves(packed_grads)) > 1e-3
    _close(packed_grads, padded_grads, tolerance=1e-5)
    for name in ("loss", "num_sequences", "num_tokens", "num_masks", "num_slots", "num_pairs"):
        np.testing.assert_allclose(packed_metrics[name], padded_metrics[name], rtol=1e-5)
    assert packed_metrics["num_places"] == 120


def test_parameters_are_spread_over_the_mesh(tiny_config, tiny_dataset):
    _, state, _ = _prepare(_with(tiny_config, "mesh", data=2, fsdp=2, tensor=2), tiny_dataset)
    kernel = state.params["blocks"]["mlp_in"]["kernel"]
    shard = kernel.addressable_shards[0].data
    assert shard.size * 4 == kernel.size
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.shape == kernel.shape]
    assert moments
    assert all(x.sharding == kernel.sharding for x in moments)


def test_a_step_that_is_not_finite_changes_nothing_but_its_number(tiny_config, tiny_dataset):
    step, state, batches = _prepare(tiny_config, tiny_dataset)
    broken = jax.tree.map(jnp.copy, state.params)
    broken["gap_head"]["in_proj"]["kernel"] *= jnp.nan
    state = state.replace(params=broken)
    before = jax.device_get(state)
    after, metrics = step(state, next(batches))
    assert metrics["finite"] == 0
    assert after.step == before.step + 1
    kept = (before.params, before.ema, before.opt_state)
    jax.tree.map(np.testing.assert_array_equal, kept, (after.params, after.ema, after.opt_state))


def test_ema_is_the_documented_average(tiny_config, tiny_dataset):
    step, state, batches = _prepare(tiny_config, tiny_dataset)
    average = jax.device_get(state.ema)
    for number in range(4):
        state, _ = step(state, next(batches))
        decay = min(tiny_config["optimizer"]["ema_decay"], (1 + number) / (10 + number))
        params = jax.device_get(state.params)
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, average
    )


def test_vectors_do_not_decay_and_matrices_do(tiny_config, tiny_dataset):
    config = _with(tiny_config, "optimizer", learning_rate=1.0, warmup_steps=0, weight_decay=0.5)
    config = read_config(config)
    optimizer = make_optimizer(config.optimizer, 10)
    setup = Setup.of(config, tiny_dataset.vocabulary, make_mesh(config.mesh))
    make_state, _ = init_state(setup, optimizer, 0)
    shapes = jax.eval_shape(make_state).params
    params = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, jax.jit(optimizer.init)(params), params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = jax.tree_util.keystr(path)
        expected = 0.0 if "bias" in name or "norm" in name else -0.5
        np.testing.assert_allclose(update, expected, err_msg=name)


def test_a_constant_learning_rate_does_not_know_the_number_of_steps(tiny_config):
    config = read_config(_with(tiny_config, "optimizer", warmup_steps=4)).optimizer
    assert config.decay == "constant"
    short, long = (
        np.array([learning_rate_schedule(config, num_steps)(step) for step in range(30)])
        for num_steps in (3, 20)
    )
    np.testing.assert_array_equal(short, long)


def test_learning_rate_warms_up_and_falls_to_zero(tiny_config):
    config = _with(tiny_config, "optimizer", decay="cosine", warmup_steps=4, learning_rate=0.1)
    schedule = learning_rate_schedule(read_config(config).optimizer, num_steps=20)
    rates = np.array([schedule(step) for step in range(21)])
    np.testing.assert_allclose(rates[:5], [0, 0.025, 0.05, 0.075, 0.1], rtol=1e-5)
    assert np.all(np.diff(rates[4:]) < 0)
    np.testing.assert_allclose(rates[20], 0, atol=1e-8)
