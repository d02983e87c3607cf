"""LLaDA and LLaMA from PyTorch's files: the same function, and the same bytes on the way back."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.torch
import torch
import torch_llada
from effort import either
from flax import traverse_util
from scipy import special
from torch_llada import Sizes

from flexmdm_jax.config import MeshConfig, load_config_file, read_config
from flexmdm_jax.conversion import base as base_module
from flexmdm_jax.conversion.base import open_base
from flexmdm_jax.conversion.layout import leaves, make_model, parameter_shapes
from flexmdm_jax.conversion.llada import export_model, import_model
from flexmdm_jax.conversion.tensors import read_safetensors
from flexmdm_jax.errors import UserError
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.frozen import load_frozen
from flexmdm_jax.training.state import Setup
from flexmdm_jax.training.state import parameter_shapes as state_shapes
from flexmdm_jax.types import Vocabulary

CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "any.py"

LENGTH = 160
VARIANTS = {
    "llada": Sizes(),
    "grouped": Sizes(kv_heads=2),
    "tied": Sizes(tied=True, kv_heads=1),
    "llama": Sizes(family="llama", kv_heads=2, theta=10_000.0),
    "llama tied": Sizes(family="llama", tied=True),
}


@pytest.fixture(scope="module", params=VARIANTS)
def converted(request, tmp_path_factory):
    """(sizes, weights, their folder, the base folder) of every variant."""
    sizes = VARIANTS[request.param]
    state = torch_llada.random_state(sizes)
    home = tmp_path_factory.mktemp("converted")
    source = torch_llada.save(home / "source", sizes, state)
    import_model(source, home / "base")
    return sizes, state, source, open_base(home / "base")


def restored(base):
    """Returns the parameters of a base folder, spread over all devices."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    return base.restore(parameter_shapes(make_model(base.architecture), mesh))


def logits_of(base, params, tokens):
    model = make_model(base.architecture)

    @jax.jit
    def run(params, tokens):
        ones = jnp.ones_like(tokens)
        return model.apply({"params": params}, tokens, ones, jnp.zeros((len(tokens), 1)))[1]

    return np.asarray(run(params, tokens))


def test_logits_equal_pytorch(converted):
    """In float32, at every position of rows longer than 100."""
    sizes, state, _, base = converted
    tokens = torch.randint(sizes.rows, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    expected = torch_llada.forward(sizes, state, tokens).numpy()
    logits = logits_of(base, jax.device_get(restored(base)), jnp.asarray(tokens.numpy()))
    np.testing.assert_allclose(logits, expected, atol=2e-5, rtol=0)
    p, q = (special.log_softmax(x.astype(np.float64), axis=-1) for x in (expected, logits))
    assert np.sum(np.exp(p) * (p - q), axis=-1).max() <= 1e-6


def _tensors(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= safetensors.torch.load_file(path)
    return found


def test_a_model_of_illadas_shape_goes_in_and_out_and_fits_its_config(tmp_path):
    """Tied, a quarter as many heads for keys and values, MASK = 5; sizes divided by 128."""
    sizes = Sizes(rows=1212, width=32, layers=2, heads=4, kv_heads=1, mlp=112, tied=True)
    state = torch_llada.random_state(sizes, torch.bfloat16)
    source = torch_llada.save(tmp_path / "source", sizes, state)
    fields = json.loads((source / "config.json").read_text())
    fields |= {"vocab_size": sizes.rows, "mask_token_id": 5, "eos_token_id": 2}
    fields |= {"max_sequence_length": 8192}
    (source / "config.json").write_text(json.dumps(fields))
    import_model(source, tmp_path / "base")
    export_model(open_base(tmp_path / "base"), tmp_path / "out")
    returned = _tensors(tmp_path / "out")
    assert set(returned) == set(state)
    assert all(torch.equal(returned[name], tensor) for name, tensor in state.items())
    values = load_config_file(str(CONFIGS), "illada_flexmdm.py")
    values.model.update({"hidden_size": 32, "num_heads": 4, "num_layers": 2})
    values.model.llada.update({"embedding_size": 1212, "mlp_size": 112, "num_kv_heads": 1})
    values.model.llada.base = str(tmp_path / "base")
    config = read_config(values)
    setup = Setup.of(config, Vocabulary(1212, mask=5, end=2), make_mesh(config.mesh))
    trained, frozen = state_shapes(setup)
    assert {path[-1] for path in traverse_util.flatten_dict(trained)} >= {"lora_a", "lora_b"}
    params = load_frozen(setup, frozen)
    embed = state[torch_llada.LLADA["embed"]].view(torch.uint8).numpy().view(jnp.bfloat16)
    np.testing.assert_array_equal(params["embedding"]["embedding"], embed)
    wrong = dataclasses.replace(setup, model=setup.model.clone(num_kv_heads=2))
    with pytest.raises(UserError, match="num_kv_heads = 1 instead of 2"):
        load_frozen(wrong, frozen)


@pytest.mark.parametrize("shard_bytes", [10**9, 5_000])
def test_what_comes_out_is_what_went_in(tmp_path, shard_bytes, monkeypatch):
    """bfloat16 stays bfloat16, bit for bit, however small the blocks and shards are."""
    monkeypatch.setattr(base_module, "BLOCK_BYTES", 300)
    sizes = Sizes(kv_heads=2)
    state = torch_llada.random_state(sizes, torch.bfloat16)
    source = torch_llada.save(tmp_path / "source", sizes, state)
    (source / "tokenizer.json").write_text("{}")
    import_model(source, tmp_path / "base")
    base = open_base(tmp_path / "base")
    assert base.dtype == jnp.bfloat16
    export_model(base, tmp_path / "out", shard_bytes)
    returned = _tensors(tmp_path / "out")
    assert set(returned) == set(state)
    for name, tensor in state.items():
        assert returned[name].dtype == torch.bfloat16
        assert torch.equal(returned[name], tensor), name
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    import_model(tmp_path / "out", tmp_path / "again")
    assert open_base(tmp_path / "again").architecture == base.architecture


def test_small_blocks_and_torch_files_give_the_same_base(tmp_path, monkeypatch):
    sizes = Sizes(kv_heads=2)
    state = torch_llada.random_state(sizes)
    import_model(torch_llada.save(tmp_path / "source", sizes, state), tmp_path / "whole")
    whole = jax.device_get(restored(open_base(tmp_path / "whole")))
    monkeypatch.setattr(base_module, "BLOCK_BYTES", 300)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_text(json.dumps(sizes.config()))
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    import_model(tmp_path / "bin", tmp_path / "blocks")
    blocks = jax.device_get(restored(open_base(tmp_path / "blocks")))
    jax.tree.map(np.testing.assert_array_equal, whole, blocks)


@pytest.mark.parametrize("family", ["llada", "llama"])
def test_a_tied_model_may_carry_its_head_only_as_a_copy(tmp_path, family, monkeypatch):
    """It is compared block by block, to the last row."""
    monkeypatch.setattr(base_module, "BLOCK_BYTES", 300)
    sizes = Sizes(family=family, tied=True, layers=1)
    state = torch_llada.random_state(sizes)
    names = torch_llada.LLAMA if family == "llama" else torch_llada.LLADA
    heads = {"copy": state[names["embed"]].clone()}
    heads["other"] = heads["copy"].clone()
    heads["other"][-1, -1] += 1e-3
    heads["short"] = heads["copy"][:-1]
    for kind, head in heads.items():
        source = torch_llada.save(tmp_path / kind, sizes, state | {names["head"]: head})
        if kind == "copy":
            import_model(source, tmp_path / "base")
            assert open_base(tmp_path / "base").architecture.tied
            continue
        field = "tie_word_embeddings" if family == "llama" else "weight_tying"
        said = rf"{kind}: {field} is true in config.json, but {names['head']} differs from"
        with pytest.raises(UserError, match=said):
            import_model(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()


# What is refused.


class Exploit:
    """Creates a file when it is unpickled by a reader that runs what it reads."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def _rewrite(**changes):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def _shard(folder):
    return folder / "model-00001-of-00002.safetensors"


def _with_tensors(edit):
    """Damages the first shard's dict of tensors, and keeps the index in agreement."""

    def damage(folder):
        tensors = safetensors.torch.load_file(_shard(folder))
        edit(tensors)
        safetensors.torch.save_file(tensors, _shard(folder))
        other = safetensors.torch.load_file(folder / "model-00002-of-00002.safetensors")
        where = dict.fromkeys(tensors, _shard(folder).name)
        where |= dict.fromkeys(other, "model-00002-of-00002.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))

    return damage


def _change_tensors(tensors):
    names = sorted(tensors)
    del tensors[names[0]]
    tensors["model.extra.weight"] = torch.zeros(2)
    tensors[names[1]] = torch.zeros(3, 3)


def _only_bin(content):
    def damage(folder):
        for path in folder.glob("model*"):
            path.unlink()
        torch.save(content(folder), folder / "pytorch_model.bin")

    return damage


def _truncate(folder):
    data = _shard(folder).read_bytes()
    _shard(folder).write_bytes(data[:-1])


def _break_header(folder):
    data = bytearray(_shard(folder).read_bytes())
    data[12] = 0xFF
    _shard(folder).write_bytes(data)


BAD = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: No such file"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
    "another model": (_rewrite(model_type="gpt2"), "model_type = 'gpt2'; only llada and llama"),
    "another block": (_rewrite(block_type="sequential"), "block_type = 'sequential'; only 'llama'"),
    "biases": (_rewrite(include_bias=True), "include_bias = True; only False"),
    "bad sizes": (_rewrite(n_heads=5), "do not divide each other"),
    "missing shard": (lambda f: _shard(f).unlink(), "names model-00001-of-00002.safetensors"),
    "truncated": (_truncate, "model-00001-of-00002.safetensors is truncated or damaged"),
    "empty": (lambda f: _shard(f).write_bytes(b""), "is truncated or damaged"),
    "header": (_break_header, "model-00001-of-00002.safetensors is truncated or damaged"),
    "index": (
        lambda f: (f / "model.safetensors.index.json").write_text("[]"),
        "index.json is damaged",
    ),
    "tensors": (
        _with_tensors(_change_tensors),
        r"missing: model.transformer.blocks.0.attn_norm.weight; unexpected: model.extra.weight; "
        r"of another shape: .* \(3, 3\) instead of",
    ),
    "more layers": (_rewrite(n_layers=4), r"missing: .*blocks.3.attn_norm.weight"),
    "code": (
        _only_bin(lambda f: Exploit(f / "executed")),
        r"holds code \(.*open\), which is never",
    ),
    "no torch file": (
        lambda f: (_only_bin(lambda _: {})(f), (f / "pytorch_model.bin").write_bytes(b"x" * 99)),
        "truncated, damaged or no file of torch.save",
    ),
    "no state_dict": (_only_bin(lambda _: [torch.zeros(2)]), "has no tensors by name"),
    "no names": (_only_bin(lambda _: {0: torch.zeros(2)}), "has no tensors by name"),
    "no weights": (lambda f: [p.unlink() for p in f.glob("model*")], "holds no weights"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_converted_is_named_and_leaves_nothing(tmp_path, kind):
    damage, message = BAD[kind]
    sizes = Sizes(layers=1)
    source = torch_llada.save(tmp_path / "source", sizes, torch_llada.random_state(sizes))
    damage(source)
    with pytest.raises(UserError, match=message) as error:
        import_model(source, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert not (source / "executed").exists()


def test_flipped_bits_of_a_header_are_read_or_named(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2, 3), "b": torch.ones(4)}, path)
    content, named = path.read_bytes(), []
    for place in range(len(content) - 4 * 10):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                assert len(read_safetensors(path)) == 2
            except UserError as error:
                named.append(str(error))
    assert len(named) > len(content)
    assert not any("\n" in message for message in named)


def test_an_output_folder_that_holds_files_is_left_alone(tmp_path):
    sizes = Sizes(layers=1)
    source = torch_llada.save(tmp_path / "source", sizes, torch_llada.random_state(sizes))
    with pytest.raises(UserError, match="exists already"):
        import_model(source, source)
    assert {path.suffix for path in source.iterdir()} == {".json", ".safetensors"}


def _stored(base):
    return sorted(path for path in (base.folder / "params").rglob("*") if path.is_file())


def _read_by_pieces(base):
    names = [leaf.path for leaf in leaves(base.architecture)]
    return {".".join(name): base.reader(name)(...) for name in names}


def _assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_flipped_bytes_of_a_base_are_noticed_by_whoever_reads_them(tmp_path):
    """In any file, at any place: the same parameters, or an error that says what to do."""
    sizes = Sizes(layers=1)
    source = torch_llada.save(tmp_path / "source", sizes, torch_llada.random_state(sizes))
    import_model(source, tmp_path / "base")
    base = open_base(tmp_path / "base")
    truth, pieces = restored(base), _read_by_pieces(base)
    rng, noticed = np.random.default_rng(0), 0
    for path in _stored(base):
        content = path.read_bytes()
        for _ in range(either(2, 20) if content else 0):
            damaged = np.frombuffer(content, np.uint8).copy()
            start = rng.integers(len(damaged))
            damaged[start : start + 5] ^= rng.integers(1, 256, dtype=np.uint8)
            path.write_bytes(damaged.tobytes())
            for read, expected in ((restored, truth), (_read_by_pieces, pieces)):
                try:
                    _assert_same(read(base), expected)
                except UserError as error:
                    assert "convert" in str(error)  # noqa: PT017
                    noticed += 1
        path.write_bytes(content)
    assert noticed > 20
    _assert_same(restored(base), truth)


def test_bases_of_the_first_format_are_read(tmp_path):
    sizes = Sizes(layers=1)
    source = torch_llada.save(tmp_path / "source", sizes, torch_llada.random_state(sizes))
    import_model(source, tmp_path / "base")
    base = open_base(tmp_path / "base")
    truth = jax.device_get(restored(base))
    old = tmp_path / "old"
    shutil.copytree(base.files, old / "files")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(old / "params", args=ocp.args.PyTreeSave(truth))
    (old / "base.json").write_text('{"format_version": 1, "dtype": "float32"}')
    _assert_same(restored(open_base(old)), truth)
    _assert_same(_read_by_pieces(open_base(old)), _read_by_pieces(base))


def test_a_damaged_base_is_named(tmp_path):
    sizes = Sizes(layers=1)
    source = torch_llada.save(tmp_path / "source", sizes, torch_llada.random_state(sizes))
    import_model(source, tmp_path / "base")
    base = open_base(tmp_path / "base")
    next(path for path in _stored(base) if "head.kernel/c" in str(path)).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        restored(base)
    (tmp_path / "base" / "base.json").write_text("{}")
    with pytest.raises(UserError, match=r"base\.json is damaged"):
        open_base(tmp_path / "base")
    with pytest.raises(UserError, match="no converted model"):
        open_base(tmp_path)
