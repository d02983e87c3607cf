"""GPT-2's folders in all their forms give one model, and what is no GPT-2 is refused in a line."""

import json

import jax
import numpy as np
import pytest
import safetensors.torch
import tokenizers as hf
import torch
import torch_gpt2
from torch_gpt2 import END, VOCABULARY, Sizes

from flexmdm_jax.config import MeshConfig
from flexmdm_jax.conversion.gpt2 import gpt2_of, read_gpt2
from flexmdm_jax.conversion.gpt2_tokenizer import open_tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.foreign import read_json
from flexmdm_jax.sharding import make_mesh

SIZES = Sizes(layers=2)
STATE = torch_gpt2.random_state(SIZES)
TEXTS = ("the cat sat", " the\n  thecat!", "Käse, 日本 🙂", f"a {END} in a text", "")


def read(folder):
    """Returns the parameters in a folder as a flat list of arrays."""
    path = folder / "config.json"
    model = gpt2_of(read_json(path, ""), path, np.float32)
    return jax.tree.leaves(jax.device_get(read_gpt2(folder, model, make_mesh(MeshConfig()))))


def saved(state, folder, **changes):
    return torch_gpt2.save(folder, SIZES, state, **changes)


def with_head(state):
    """As a model is saved with its head: a prefix, the embedding once more, buffers of old code."""
    full = {f"transformer.{name}": tensor for name, tensor in state.items()}
    for layer in range(SIZES.layers):
        seen = torch.ones(1, 1, SIZES.positions, SIZES.positions, dtype=torch.bool).tril()
        full[f"transformer.h.{layer}.attn.bias"] = seen
        full[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return full | {"lm_head.weight": state["wte.weight"].clone()}


def in_shards(state, folder):
    saved({"x": torch.zeros(1)}, folder)
    (folder / "model.safetensors").unlink()
    names, where = sorted(state), {}
    for number in range(3):
        part = {name: state[name] for name in names[number::3]}
        where |= dict.fromkeys(part, f"part-{number}.safetensors")
        safetensors.torch.save_file(part, folder / f"part-{number}.safetensors")
    index = json.dumps({"weight_map": where})
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


def in_pickle(state, folder):
    saved({"x": torch.zeros(1)}, folder)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("write", [saved, in_shards, in_pickle])
def test_with_and_without_a_head_it_is_the_same_model(tmp_path, write):
    plain = read(saved(STATE, tmp_path / "plain"))
    found = read(write(with_head(STATE), tmp_path / "full"))
    jax.tree.map(np.testing.assert_array_equal, found, plain)
    assert sum(x.size for x in plain) == sum(x.numel() for x in STATE.values())


def test_half_precision_is_read_as_what_it_means(tmp_path):
    halves = {name: tensor.half() for name, tensor in STATE.items()}
    whole = {name: tensor.float() for name, tensor in halves.items()}
    found, expected = (read(saved(x, tmp_path / str(n))) for n, x in enumerate((halves, whole)))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def without(name):
    return {key: tensor for key, tensor in STATE.items() if key != name}


WRONG = {
    "missing": (without("h.1.ln_2.bias"), {}, "missing: h.1.ln_2.bias$"),
    "unexpected": (STATE | {"score.weight": torch.ones(2, 24)}, {}, "unexpected: score.weight$"),
    "shape": (STATE, {"n_positions": 41}, r"wpe.weight \(40, 24\) instead of \(41, 24\)$"),
    "deeper": (STATE, {"n_layer": 1}, "unexpected: h.1.attn.c_attn.bias"),
    "head": (STATE | {"lm_head.weight": STATE["wte.weight"] + 1}, {}, "differs from wte.weight"),
    "short head": (STATE | {"lm_head.weight": STATE["wte.weight"][1:]}, {}, "lm_head.weight diff"),
    "prefix": (STATE | {"transformer.wte.weight": STATE["wte.weight"]}, {}, "unexpected: .*wpe"),
    "kind": (STATE, {"model_type": "gptj"}, "model_type = 'gptj'; only 'gpt2' is read as it"),
    "llama": (STATE, {"model_type": "llama"}, "a LLaMA is converted first: python -m flexmdm_jax"),
    "heads": (STATE, {"n_head": 5}, "n_head = 5 does not divide n_embd = 24"),
    "no width": (STATE, {"n_embd": None}, "config.json has no field 'n_embd'"),
    "half a head": (STATE, {"n_head": 2.5}, "n_head = 2.5; expected a whole number"),
    "untied": (STATE, {"tie_word_embeddings": False}, "only True can be imported"),
    "relu": (STATE, {"activation_function": "relu"}, "only 'gelu_new' can be imported"),
    "unknown": (STATE, {"rotary_dim": 8}, "rotary_dim = 8 is unknown to flexmdm_jax"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_gpt2_is_refused_in_a_line(tmp_path, kind):
    state, changes, message = WRONG[kind]
    folder = saved(state, tmp_path / "wrong", **changes)
    with pytest.raises(UserError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    path = saved(STATE, tmp_path / "cut") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="truncated or damaged"):
        read(path.parent)


# Tokenizers.


def library(folder):
    """Returns the tokenizers library's own reading of two files."""
    model = hf.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    built = hf.Tokenizer(model)
    built.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = hf.decoders.ByteLevel()
    return built


def opened(folder):
    return open_tokenizer(folder, json.loads((folder / "config.json").read_text()))


def test_two_files_and_one_make_the_same_tokens(tmp_path):
    """Those of the library; what spells the end of a text is text."""
    folder = saved(STATE, tmp_path / "gpt2")
    expected = library(folder)
    tokenizer = opened(folder)
    pieces = [tokenizer.piece(token) for token in tokenizer.encode("the cat sat")]
    assert pieces == [b"the", b" ", b"cat", b" ", b"s", b"at"]
    for text in TEXTS:
        assert tokenizer.encode(text) == expected.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    expected.add_special_tokens([END])
    expected.save(str(folder / "tokenizer.json"))
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    one = opened(folder)
    assert [one.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    end = VOCABULARY.index(END)
    assert tokenizer.piece(end) == one.piece(end) == b""


def test_a_space_may_be_put_before_texts(tmp_path):
    folder = saved(STATE, tmp_path / "gpt2")
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": True}))
    plain = library(folder)
    assert opened(folder).encode("the cat") == plain.encode(" the cat").ids


UNUSABLE = {
    "none": ({"vocab.json": None}, "neither tokenizer.json nor vocab.json and merges.txt"),
    "no merges": ({"merges.txt": None}, "neither tokenizer.json nor vocab.json and merges.txt"),
    "list": ({"vocab.json": "[1]"}, "vocab.json is no list of tokens with the ids from 0 on"),
    "gap": ({"vocab.json": '{"a": 0, "b": 2}'}, "vocab.json is no list of tokens with the ids"),
    "cut": ({"vocab.json": '{"a": 0, "b'}, "vocab.json is no list of tokens with the ids"),
    "pair": ({"merges.txt": "t h e\n"}, "merges.txt: 't h e' does not make a token of vocab.json"),
    "other": ({"merges.txt": "q x\n"}, "merges.txt: 'q x' does not make a token of vocab.json"),
    "added": ({"added_tokens.json": '{"<tool>": 300}'}, "has tokens that vocab.json lacks"),
    "config": ({"tokenizer_config.json": '{"add_prefix_space": 1}'}, "expected true or false"),
    "damaged": ({"tokenizer.json": "{"}, "tokenizer.json or config.json is unusable"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_tokenizer_that_cannot_be_read_is_refused_in_a_line(tmp_path, kind):
    files, message = UNUSABLE[kind]
    folder = saved(STATE, tmp_path / "gpt2")
    for name, text in files.items():
        (folder / name).unlink(missing_ok=True)
        if text is not None:
            (folder / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        opened(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_an_empty_list_of_added_tokens_adds_nothing(tmp_path):
    folder = saved(STATE, tmp_path / "gpt2")
    plain = opened(folder).encode(TEXTS[1])
    (folder / "added_tokens.json").write_text("{}")
    assert opened(folder).encode(TEXTS[1]) == plain
