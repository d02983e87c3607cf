"""FlexMDM checkpoints of xlm-core: the same numbers, and a run like any other."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import torch_xlm
from commands import refuse, succeed
from tokenizer_kinds import gpt2_folder
from torch_xlm import Sizes

from flexmdm_jax.conversion.xlm import gpt2_with, read_xlm, read_xlm_config
from flexmdm_jax.data.tokenizers import make_tokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.model import load
from flexmdm_jax.models.dit import make_denoiser
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.state import Setup, parameter_shapes
from flexmdm_jax.types import Vocabulary

TINY = pathlib.Path(os.environ.get("FLEXMDM_DATA_DIR", "")) / "xlm_flexmdm_tiny"
LENGTHS = (2, 7, 13)


def read(folder):
    """Returns (the config, the network, its parameters) of a checkpoint."""
    config, mask, rows = read_xlm_config(folder)
    vocabulary = Vocabulary(rows, mask, end=rows // 2)
    setup = Setup.of(config, vocabulary, make_mesh(config.mesh))
    return config, setup.model, read_xlm(folder, config, parameter_shapes(setup)[0])


def compare(folder, tokens, lengths, alpha, logits, gaps):
    """Asserts that a checkpoint gives the same at real slots, and no chance to its pad token."""
    config, model, params = read(folder)
    real = np.arange(tokens.shape[1])[None] < lengths[:, None]

    @jax.jit
    def run(params, tokens, segment_ids, alpha):
        denoiser = make_denoiser(model, params)
        encoding = denoiser.encode(tokens, segment_ids, alpha)
        return encoding, denoiser.decode(encoding.hidden)

    encoding, ours = run(params, tokens, real.astype(np.int32), alpha[:, None])
    pad = config.model.xlm.pad
    assert np.all(np.isneginf(ours[..., pad]))
    kept = np.delete(np.arange(logits.shape[-1]), pad)
    np.testing.assert_allclose(ours[real][:, kept], logits[real][:, kept], atol=1e-4, rtol=0)
    if gaps.ndim == 2:
        assert encoding.gap_logits is None
        np.testing.assert_allclose(encoding.gaps[real], gaps[real], atol=1e-4, rtol=0)
        return
    np.testing.assert_allclose(encoding.gap_logits[real], gaps[real], atol=1e-4, rtol=0)
    chances = torch.softmax(torch.tensor(gaps), -1).numpy()
    means = chances @ np.arange(gaps.shape[-1])
    np.testing.assert_allclose(encoding.gaps[real], means[real], atol=1e-3, rtol=0)


KINDS = {
    "mean": Sizes(),
    "relu, whole heads": Sizes(activation="relu", rotary=8, mlp=None),
    "distribution": Sizes(gaps="distribution"),
    "linear": Sizes(gaps="distribution", head="linear"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_network_that_pytorch_computes(tmp_path, kind):
    sizes, rng = KINDS[kind], np.random.default_rng(0)
    state = torch_xlm.random_state(sizes)
    folder = torch_xlm.save(tmp_path / "xlm", sizes, state)
    lengths, alpha = np.array(LENGTHS), np.array([0, 0.3, 0.99], np.float32)
    tokens = rng.integers(sizes.rows, size=(3, 14))
    inputs = (torch.tensor(x) for x in (tokens, lengths, alpha))
    expected = torch_xlm.forward(sizes.config(), state, *inputs)
    compare(folder, tokens, lengths, alpha, *(x.numpy() for x in expected))


@pytest.mark.skipif(not TINY.is_dir(), reason="FLEXMDM_DATA_DIR holds no xlm_flexmdm_tiny")
@pytest.mark.parametrize("kind", ["expectation", "distribution"])
def test_it_is_the_network_that_wrote_the_checkpoint(kind):
    """All four inputs, with the numbers that xlm-core itself gave."""
    expected = np.load(TINY / kind / "expected.npz")
    names = ("tokens", "lengths", "time", "logits", "length_logits")
    compare(TINY / kind, *(expected[name] for name in names))


# As a run.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer whose ids end with END and leave two rows: pad and MASK."""
    letters = ["Ġ", *"abcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *".,!?()-"]
    vocab = {letter: number for number, letter in enumerate(letters)}
    vocab["<|endoftext|>"] = 61
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    description = {
        "version": "1.0",
        "added_tokens": [{"id": 61, "content": "<|endoftext|>", "special": True, **flags}],
        "normalizer": None,
        "pre_tokenizer": byte_level | {"use_regex": True},
        "decoder": byte_level | {"use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text(json.dumps(description))
    (folder / "config.json").write_text(
        json.dumps({"vocab_size": 64, "mask_token_id": 63, "eos_token_id": 61})
    )
    return folder


@pytest.mark.parametrize("kind", ["mean", "distribution"])
def test_a_converted_checkpoint_samples_fills_and_scores(tmp_path, tokenizer, kind):
    """The head's row of pad is made to tempt it: without care, nothing else would be written."""
    sizes = KINDS[kind]
    state = torch_xlm.random_state(sizes)
    state["output_layer.adaLN_modulation.modulation.bias"][: sizes.width] = 3.0
    state["output_layer.linear.weight"][sizes.pad] = 3.0
    folder = torch_xlm.save(tmp_path / "xlm", sizes, state)
    arguments = (f"--from={folder}", f"--out={tmp_path / 'run'}", f"--tokenizer=hf:{tokenizer}")
    succeed("convert", "xlm", *arguments)
    model = load(tmp_path / "run")
    assert model.max_length == torch_xlm.MAX_LENGTH
    settings = {"steps": 8} | ({"insertions": "exact_gaps"} if kind == "distribution" else {})
    results = model.generate("ab", n=16, **settings) + model.infill("a", "b", n=16, **settings)
    written = np.concatenate([result.tokens for result in results])
    assert len(written) > 100
    assert not np.isin(written, [sizes.pad, sizes.mask]).any()
    assert all(result.text.startswith("ab") for result in results[:16])
    score = model.score(["hello", "you"], num_times=8)
    assert np.all(np.isfinite(score.nats) & (score.nats > 0))


def test_gpt2_has_its_own_ids_and_their_special_ones():
    gpt2 = make_tokenizer("gpt2", (), gpt2_folder())
    own = gpt2_with(gpt2, 50_260, mask=50_258, end=50_256)
    assert own.vocabulary == Vocabulary(50_260, mask=50_258, end=50_256)
    text = "In 1984, the café's <|endoftext|>  end.\n"
    assert own.encode(text) == gpt2.encode(text)
    assert own.decode(own.encode(text)) == text
    assert own.piece(50_257) == own.piece(50_256) == own.piece(50_259) == b""
    with pytest.raises(UserError, match="MASK = 7, is an ordinary token of texts"):
        gpt2_with(gpt2, 50_260, mask=7, end=50_256)


# What is refused.


def _config(**changes):
    def damage(folder):
        path = folder / "config.json"
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in values.items() if v != "gone"}))

    return damage


def _tensors(edit):
    def damage(folder):
        state = safetensors.torch.load_file(folder / "model.safetensors")
        edit(state)
        safetensors.torch.save_file(state, folder / "model.safetensors")

    return damage


BAD = {
    "unknown": (_config(sliding_window=4), "sliding_window = 4 is unknown to flexmdm_jax"),
    "activation": (_config(activation="silu"), "activation = 'silu'; only relu and gelu are"),
    "other head": (
        _config(len_predict_type="distribution"),
        "len_predict_type = 'distribution', but the tensors are those of 'expectation'",
    ),
    "missing": (_config(d_model="gone"), "has no field 'd_model'"),
    "heads": (_config(nhead=3), "hidden_size = 16 does not split into 3 heads"),
    "rotary": (_config(rotary_emb_dim=10), "rotary_size = 10; an even number up to the 8"),
    "pad": (_config(padding_idx=63), "padding_idx = 63 and mask_idx = 63 have to be different"),
    "layers": (_config(num_layers=1), "unexpected: encoder.1.ada_ln_modulations"),
    "tensor": (
        _tensors(lambda state: state.pop("encoder.0.o_proj.weight")),
        "missing: encoder.0.o_proj.weight",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_converted_is_named(tmp_path, kind):
    damage, message = BAD[kind]
    folder = torch_xlm.save(tmp_path / "xlm", Sizes(), torch_xlm.random_state(Sizes()))
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_the_heads_of_distributions_are_told_apart(tmp_path):
    sizes = KINDS["distribution"]
    folder = torch_xlm.save(tmp_path / "xlm", sizes, torch_xlm.random_state(sizes))
    _config(len_head_type="linear")(folder)
    with pytest.raises(UserError, match=r"len_head_type = 'linear', but the tensors .* of 'mlp'"):
        read(folder)


def test_another_tokenizer_is_named(tmp_path, tokenizer):
    sizes = Sizes(rows=66)
    folder = torch_xlm.save(tmp_path / "xlm", sizes, torch_xlm.random_state(sizes))
    arguments = ("convert", "xlm", f"--from={folder}", f"--out={tmp_path / 'run'}")
    message = "num_embeddings = 66 and mask_idx = 63, but the tokenizer has 64 ids and MASK = 63"
    refuse(message, *arguments, f"--tokenizer=hf:{tokenizer}")
    refuse("num_embeddings = 66 .* tokenizer has 258 ids", *arguments, "--tokenizer=bytes")
    _config(num_embeddings=64, padding_idx=3)(folder)
    refuse("padding_idx = 3 is a token of texts", *arguments, f"--tokenizer=hf:{tokenizer}")
    assert not (tmp_path / "run").exists()
