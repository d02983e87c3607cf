"""The scale of PEFT's adapters: as in PEFT's definition, there and back, or what to set."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexmdm_jax.config import LoraConfig
from flexmdm_jax.conversion.architecture import Architecture
from flexmdm_jax.conversion.layout import make_model, parameter_shapes
from flexmdm_jax.conversion.peft import read_peft, write_peft
from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import read_fields
from flexmdm_jax.models.lora import Lora, Projection, split_base

BACKBONE = Architecture(
    family="llama",
    embedding_size=8,
    hidden_size=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    mlp_size=8,
    rope_theta=1e4,
    norm_epsilon=1e-5,
    tied=True,
)
STABLE = Lora(rank=2, alpha=8.0, rslora=True, targets=("q", "v"))


def adapters(lora):
    shapes, _ = split_base(parameter_shapes(make_model(BACKBONE, lora=lora)))
    draw = np.random.default_rng(0).standard_normal
    return jax.tree.map(lambda x: draw(x.shape, np.float32), shapes)


def test_the_root_of_the_rank_divides_alpha_where_it_should(tmp_path):
    """In the network, and in the file that PEFT reads: lora_alpha / sqrt(r) (Kalajdzievski)."""
    x = jnp.ones((1, 3))
    for lora, divisor in (
        (STABLE, math.sqrt(2)),
        (dataclasses.replace(STABLE, rslora=False), 2),
    ):
        layer = Projection((3,), (4,), (None, None), jnp.float32, lora=lora)
        params = jax.tree.map(jnp.ones_like, layer.init(jax.random.key(0), x))
        with_adapter = layer.apply(params, x, jnp.ones((1, 2)))
        np.testing.assert_allclose(with_adapter, 3 + 8 / divisor * 2, rtol=1e-6)
        out = tmp_path / str(divisor)
        write_peft(out, adapters(lora), BACKBONE, lora, "base")
        config = json.loads((out / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (2, 8.0)
        assert config["use_rslora"] is lora.rslora


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ({}, None),
        # The same scale in other words.
        ({"rslora": False, "alpha": 8 * math.sqrt(2)}, None),
        ({"rslora": False}, "set there rslora = True instead of False"),
        ({"alpha": 4.0}, "set there alpha = 8.0 instead of 4.0"),
        ({"rank": 4}, "set there rank = 2 instead of 4"),
        (
            {"rank": 4, "alpha": 1.0, "rslora": False},
            "set there rank = 2 instead of 4 and alpha = 8.0 instead of 1.0 and "
            "rslora = True instead of False",
        ),
    ],
)
def test_adapters_come_back_or_all_that_differs_is_named(tmp_path, ours, said):
    params = adapters(STABLE)
    write_peft(tmp_path / "peft", params, BACKBONE, STABLE, "base")
    lora = dataclasses.replace(STABLE, **ours)
    if said is None:
        found = read_peft(tmp_path / "peft", BACKBONE, lora, params)
        jax.tree.map(np.testing.assert_array_equal, found, params)
        return
    with pytest.raises(UserError) as error:
        read_peft(tmp_path / "peft", BACKBONE, lora, adapters(lora))
    assert str(error.value).endswith(f"does not fit config.model.llada.lora; {said}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": "2"}, "r = '2'; expected a whole number, at least 1"),
        ({"r": 0}, "r = 0; expected a whole number, at least 1"),
        ({"lora_alpha": None}, "lora_alpha = None; expected a positive number"),
        ({"use_rslora": "yes"}, "use_rslora = 'yes'; expected true or false"),
        ({"peft_type": "ADALORA"}, "peft_type = 'ADALORA'; only 'LORA' can be imported"),
    ],
)
def test_what_is_no_number_is_named(tmp_path, changes, message):
    write_peft(tmp_path / "peft", adapters(STABLE), BACKBONE, STABLE, "base")
    path = tmp_path / "peft" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        read_peft(tmp_path / "peft", BACKBONE, STABLE, adapters(STABLE))


@pytest.mark.parametrize("name", ["r", "lora_alpha", "peft_type"])
def test_what_is_missing_is_named(tmp_path, name):
    write_peft(tmp_path / "peft", adapters(STABLE), BACKBONE, STABLE, "base")
    path = tmp_path / "peft" / "adapter_config.json"
    values = json.loads(path.read_text())
    del values[name]
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"adapter_config.json has no field '{name}'"):
        read_peft(tmp_path / "peft", BACKBONE, STABLE, adapters(STABLE))


def test_runs_of_old_say_nothing_of_it():
    values = dataclasses.asdict(LoraConfig(rank=4))
    del values["rslora"]
    assert read_fields(LoraConfig, values, "config") == LoraConfig(rank=4, rslora=False)
