"""What a config.json says, as numbers: where theta may stand, and what is no size."""

import json

import pytest
import torch_llada

from flexmdm_jax.conversion.architecture import read_architecture
from flexmdm_jax.errors import UserError


def read(folder, family="llama", without=(), **changes):
    values = torch_llada.Sizes(family=family).config() | changes
    values = {name: value for name, value in values.items() if name not in without}
    (folder / "config.json").write_text(json.dumps(values))
    return read_architecture(folder)


ROPES = [
    ({}, 10_000.0),
    ({"rope_theta": 5e5}, 5e5),
    ({"rope_theta": 500_000, "rope_scaling": None}, 5e5),
    ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}}, 5e5),
    ({"rope_theta": 5e5, "rope_scaling": {"type": "default"}}, 5e5),
    # As transformers 5 writes it.
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
    ({"rope_parameters": {"rope_theta": 5e5}}, 5e5),
    ({"rope_parameters": {"rope_type": "default"}}, 10_000.0),
    ({"rope_parameters": {}, "rope_theta": None}, 10_000.0),
    ({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 500_000}}, 5e5),
]


@pytest.mark.parametrize(("fields", "theta"), ROPES)
def test_theta_is_found_wherever_it_stands(tmp_path, fields, theta):
    assert read(tmp_path, without={"rope_theta"} - set(fields), **fields).rope_theta == theta


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "rope_theta": 5e5}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_parameters": LLAMA3}, "rope_parameters.rope_type = 'llama3'; only 'default'"),
        (
            # As transformers sorts it.
            {"rope_parameters": dict(sorted(LLAMA3.items()))},
            "rope_parameters.rope_type = 'llama3'; only 'default'",
        ),
        ({"rope_scaling": LLAMA3}, "rope_scaling.rope_type = 'llama3'; only 'default'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type = 'linear'"),
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            r"rope_theta = 10000.0 but rope_parameters.rope_theta = 500000.0; remove the wrong one",
        ),
        ({"rope_parameters": [1]}, r"rope_parameters = \[1\]; expected a group of fields"),
        ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta = 'big'; expected a positive"),
    ],
)
def test_what_else_turns_the_frequencies_is_refused(tmp_path, fields, message):
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, **fields)
    assert str(error.value).count(str(tmp_path)) == 1


def test_a_byte_order_mark_is_no_damage(tmp_path):
    plain = read(tmp_path)
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_architecture(tmp_path) == plain


SIZES = {
    "llama": """vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads
        intermediate_size head_dim""",
    "llada": "embedding_size d_model n_layers n_heads n_kv_heads mlp_hidden_size",
}
NUMBERS = {family: ("rope_theta", "rms_norm_eps") for family in SIZES}
FLAGS = {"llama": ("tie_word_embeddings",), "llada": ("weight_tying", "multi_query_attention")}


@pytest.mark.parametrize("value", ["24", 24.0, 0, -8, True, [24], {"size": 24}])
@pytest.mark.parametrize("family", SIZES)
def test_what_is_no_size_is_named(tmp_path, family, value):
    for name in SIZES[family].split():
        with pytest.raises(UserError, match="expected a whole number, at least 1") as error:
            read(tmp_path, family, **{name: value})
        assert f"{name} = {value!r};" in str(error.value)


@pytest.mark.parametrize("value", ["1e4", 0, -1.0, True, float("inf"), float("nan"), [1e4]])
@pytest.mark.parametrize("family", SIZES)
def test_what_is_no_positive_number_is_named(tmp_path, family, value):
    for name in NUMBERS[family]:
        with pytest.raises(UserError, match=f"{name} = .*; expected a positive number"):
            read(tmp_path, family, **{name: value})


@pytest.mark.parametrize("value", ["true", 1, 0, []])
@pytest.mark.parametrize("family", SIZES)
def test_what_is_neither_true_nor_false_is_named(tmp_path, family, value):
    for name in FLAGS[family]:
        with pytest.raises(UserError, match=f"{name} = .*; expected true or false"):
            read(tmp_path, family, **{name: value})


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llada", {"multi_query_attention": True}, "n_kv_heads = 4 contradicts .* which means 1"),
        ("llada", {"multi_query_attention": False, "n_kv_heads": 2}, "contradicts .* means 4"),
        ("llada", {"without": ["d_model"]}, "has no field 'd_model'"),
        ("llama", {"without": ["vocab_size"]}, "has no field 'vocab_size'"),
        ("llama", {"vocab_size": None}, "has no field 'vocab_size'"),
        ("llama", {"head_dim": 8}, "head_dim = 8; only hidden_size / num_attention_heads = 24 / 4"),
        ("llama", {"model_type": ["llama"]}, r"model_type = \['llama'\]; only llada and llama"),
    ],
)
def test_what_does_not_fit_together_is_named(tmp_path, family, changes, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, family, **changes)


def test_a_file_without_fields_is_named(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"config\.json holds no fields but \[1\]"):
        read_architecture(tmp_path)
