"""A run whose network gives distributions of gaps: trained, saved, opened, sampled from."""

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec

from flexmdm_jax.config import read_config
from flexmdm_jax.errors import UserError
from flexmdm_jax.model import load
from flexmdm_jax.sampling import ExactGaps, SamplerConfig
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.loop import train
from flexmdm_jax.training.memory import bytes_of_a_batch
from flexmdm_jax.training.state import Setup, parameter_shapes

EXACT = SamplerConfig(steps=4, insertions=ExactGaps())


def setup_of(values, dataset):
    config = read_config(values)
    return config, Setup.of(config, dataset.vocabulary, make_mesh(config.mesh))


def test_a_run_comes_back_from_its_workdir_and_samples(tiny_config, tiny_dataset, tmp_path):
    """The head has a class for each length."""
    tiny_config["model"]["gap_head"] = "distribution"
    tiny_config["model"] |= {"dropout_rate": 0.0, "num_layers": 1}
    tiny_config["training"]["num_steps"] = 2
    config, setup = setup_of(tiny_config, tiny_dataset)
    state = train(config, setup, tiny_dataset, tmp_path, lambda params: {})
    model = load(tmp_path)
    results = model.generate("", n=3, insertions="exact_gaps", steps=EXACT.steps)
    assert model.params["gap_head"]["proj"]["kernel"].shape == (16, tiny.LENGTH + 1)
    jax.tree.map(np.testing.assert_array_equal, model.params, jax.device_get(state.ema))
    assert np.any(model.params["gap_head"]["proj"]["kernel"]), "it has learned"
    assert [result.length for result in results] == [len(x.tokens) for x in results]
    assert any(result.length for result in results)
    held = bytes_of_a_batch(config, 8, tiny.LENGTH)
    assert 4 * 8 * tiny.LENGTH * (tiny.LENGTH + 1) in held.values()


def test_the_head_is_spread_like_other_parameters(tiny_config, tiny_dataset):
    tiny_config["model"]["gap_head"] = "distribution"
    tiny_config["mesh"] = {"data": 2, "fsdp": 2, "tensor": 2}
    head = parameter_shapes(setup_of(tiny_config, tiny_dataset)[1])[0]["gap_head"]["proj"]
    assert head["kernel"].sharding.spec == PartitionSpec("fsdp", None)
    assert head["bias"].sharding.spec == PartitionSpec(None)


@pytest.mark.parametrize("method", ["flexmdm", "mdm"])
def test_exact_gaps_are_asked_only_of_networks_that_insert(tiny_config, tiny_dataset, method):
    _, setup = setup_of(tiny_config | {"method": method}, tiny_dataset)
    if method == "mdm":
        setup.check_sampler(EXACT)
        return
    with pytest.raises(UserError, match="network gives mean gaps only; choose poisson or binom"):
        setup.check_sampler(EXACT)
