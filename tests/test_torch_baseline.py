"""The baseline in PyTorch trains what we train: the same loss and the same law of x_t."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch

from benchmarks import torch_baseline
from flexmdm_jax.config import Config, read_config
from flexmdm_jax.conversion.flexmdm_torch import read_flexmdm
from flexmdm_jax.data.tokenizers import ByteTokenizer
from flexmdm_jax.interpolant import Interpolant, Times
from flexmdm_jax.losses import training_loss
from flexmdm_jax.models.dit import make_denoiser
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.state import Setup, parameter_shapes

VOCABULARY = ByteTokenizer({}).vocabulary
METHODS = pytest.mark.parametrize("method", ["flexmdm", "mdm"])


def config_of(method: str, **model) -> Config:
    values = tiny.config_at(pathlib.Path("nowhere")) | {"method": method}
    values["model"] |= {"dropout_rate": 0.0} | model
    return read_config(values)


def sequences(count: int = 8) -> list[np.ndarray]:
    return [np.array([*text.encode(), VOCABULARY.end]) for text in tiny.texts(count)]


def first_batch(config: Config) -> torch_baseline.Corrupted:
    torch.manual_seed(1)
    return next(iter(torch_baseline.Batches(config, VOCABULARY, sequences())))


def random_model(config: Config) -> torch_baseline.DiT:
    """Returns a network none of whose parameters is zero, as they are at first."""
    torch.manual_seed(2)
    model = torch_baseline.DiT(config, VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def our_loss(path: pathlib.Path, config: Config, x: torch_baseline.Corrupted):
    """Returns our (loss, metrics) on the same x_t, with the parameters of a PyTorch checkpoint."""
    setup = Setup.of(config, VOCABULARY, make_mesh(config.mesh))
    params = read_flexmdm(path, parameter_shapes(setup)[0])
    slots = np.arange(x.tokens.shape[1])
    segment_ids = (slots < x.lengths.numpy()[:, None]).astype(np.int32)
    # Where nothing is predicted, targets count as tokens of x₁ unless they are END.
    targets = np.where(x.targets == torch_baseline.NO_TARGET, x.tokens, x.targets)
    interpolant = Interpolant(
        tokens=jnp.asarray(x.tokens.numpy().astype(np.int32)),
        segment_ids=jnp.asarray(segment_ids),
        targets=jnp.asarray(targets.astype(np.int32)),
        gaps=jnp.asarray(x.gaps.numpy()),
    )
    # Rates are hazards, 1 / (1 - t), times weights. MDM's network is not told t.
    t = x.alpha.numpy() if config.method == "flexmdm" else 0 * x.rates.numpy()
    weight = x.rates.numpy() * (1 - t)
    times = Times(t=jnp.asarray(t)[:, None], weight=jnp.asarray(weight)[:, None])
    process = config.process(VOCABULARY)
    return training_loss(make_denoiser(setup.model, params), interpolant, times, process)


@METHODS
def test_the_loss_is_ours_on_the_same_weights_and_x_t(tmp_path, method):
    config = config_of(method)
    model, x = random_model(config), first_batch(config)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "last.ckpt")
    expected, metrics = our_loss(tmp_path / "last.ckpt", config, x)
    with torch.no_grad():
        nats = torch_baseline.Objective(model)(**vars(x))
    theirs = [float(part) / float(metrics["num_tokens"]) for part in nats]
    names = ("unmasking_loss", "insertion_loss")
    np.testing.assert_allclose(theirs, [metrics[name] for name in names], rtol=1e-4)
    np.testing.assert_allclose(sum(theirs), expected, rtol=1e-4)
    assert x.counts() == {name: int(metrics[name]) for name in x.counts()}


def test_a_mask_of_blocks_is_the_mask_of_keys():
    """On a GPU alone flex_attention has gradients; its values are the same anywhere."""
    config = config_of("flexmdm")
    x = first_batch(config)
    assert len(set(x.lengths.tolist())) > 2
    model = random_model(config)
    theirs = torch_baseline.DiT(config, VOCABULARY, "flex")
    theirs.load_state_dict(model.state_dict())
    with torch.no_grad():
        found, expected = (torch_baseline.Objective(m)(**vars(x)) for m in (theirs, model))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_every_token_of_x1_is_in_its_place_or_in_a_gap():
    slots, lengths = torch.arange(24), torch.arange(3, 24, 3)
    rows = torch.where(slots < lengths[:, None] - 1, slots, VOCABULARY.end)
    t, weights = torch_baseline.stratified_times(len(lengths), 1.0)
    x = torch_baseline.corrupt(rows, lengths, t, weights, VOCABULARY, mdm=False)
    assert x.gaps.sum() > 0
    assert x.counts()["num_masks"] > 0
    for row, length in enumerate(lengths.tolist()):
        place = -1
        for slot in range(int(x.lengths[row])):
            place += int(x.gaps[row, slot]) + 1
            is_mask = x.tokens[row, slot] == VOCABULARY.mask
            found = x.targets[row, slot] if is_mask else x.tokens[row, slot]
            assert found == rows[row, place]
        assert place == length - 1
        assert x.tokens[row, x.lengths[row] - 1] == VOCABULARY.end


@METHODS
def test_tokens_are_absent_masked_and_clean_as_often_as_in_our_process(method):
    """4,000 tokens at each time: a share's standard deviation is below 0.008."""
    process = config_of(method).process(VOCABULARY)
    torch.manual_seed(3)
    t = torch.tensor([0.1, 0.5, 0.9])
    tokens = torch.full((3, 4001), 7)
    tokens[:, -1] = VOCABULARY.end
    lengths = torch.full((3,), 4001)
    x = torch_baseline.corrupt(tokens, lengths, t, torch.ones(3), VOCABULARY, mdm=method == "mdm")
    masked = (x.tokens == VOCABULARY.mask).sum(1) / 4001
    clean = (x.tokens == 7).sum(1) / 4000
    time = jnp.asarray(t.numpy())
    np.testing.assert_allclose(masked, process.masked(time), atol=0.03)
    np.testing.assert_allclose(clean, process.clean(time), atol=0.03)
    np.testing.assert_allclose(x.gaps.sum(1) / 4000, process.absent(time), atol=0.03)


@pytest.mark.parametrize("warp", [1.0, 3.0])
def test_times_are_one_of_each_part_and_weights_undo_the_warp(warp):
    t, weights = torch_baseline.stratified_times(100, warp)
    uniform = 1 - (1 - t) ** (1 / warp)
    np.testing.assert_allclose(uniform, (np.arange(100) + 0.5) / 100, atol=0.0055)
    # The integral of t² over [0, 1].
    np.testing.assert_allclose((weights * t**2).mean(), 1 / 3, atol=0.01)


@METHODS
def test_steps_lower_the_loss(method):
    config = config_of(method, dropout_rate=0.1)
    training = torch_baseline.Training(
        config, VOCABULARY, sequences(), 10.0, device="cpu", compiled=False
    )
    losses = [float(training.step()[0]) for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
