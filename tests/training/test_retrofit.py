"""A tiny LLaDA from PyTorch's files to a trained FlexMDM, and back."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
import torch_llada
import training_programs
from flax import traverse_util
from torch_llada import Sizes

from flexmdm_jax.config import LoraConfig, read_config
from flexmdm_jax.conversion.base import open_base
from flexmdm_jax.conversion.layout import leaves
from flexmdm_jax.conversion.llada import export_model, import_model
from flexmdm_jax.conversion.peft import read_peft
from flexmdm_jax.data.storage.records import open_dataset
from flexmdm_jax.data.tasks.gsm8k import Gsm8kConfig, prompt_of
from flexmdm_jax.data.tokenizers import ByteTokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.model import load
from flexmdm_jax.models.llada import LLaDA
from flexmdm_jax.models.lora import Lora, is_trained
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.frozen import start_from
from flexmdm_jax.training.imports import export_adapters, import_run, merge_run
from flexmdm_jax.training.loop import train
from flexmdm_jax.training.optimizer import make_optimizer
from flexmdm_jax.training.state import (
    Setup,
    first_state,
    init_state,
    parameter_shapes,
    sharded_shapes,
)

LENGTH = 48
SIZES = Sizes(rows=260, width=32, layers=3, heads=4, kv_heads=2, mlp=48)
STEPS = 200


def config_values(home, **training):
    values = tiny.config_at(home / "data")
    values["data"]["max_length"] = LENGTH
    values["model"] = {
        "kind": "llada",
        "hidden_size": SIZES.width,
        "num_layers": SIZES.layers,
        "num_heads": SIZES.heads,
        "compute_dtype": "float32",
        "llada": {
            "base": str(home / "base"),
            "embedding_size": SIZES.rows,
            "mlp_size": SIZES.mlp,
            "num_kv_heads": SIZES.kv_heads,
            "layers_per_group": 2,
            "lora": {"rank": 4, "alpha": 8.0, "dropout_rate": 0.1},
        },
    }
    values["optimizer"]["group_learning_rates"] = {"*/lora_?": 3e-3}
    values["training"] |= {"num_steps": STEPS, "checkpoint_every": 1000, "log_every": 50} | training
    return values


def write_arithmetic(folder):
    """Sums in the form of GSM8K."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 64), ("test", 8)):
        pairs = rng.integers(10, size=(count, 2)).tolist()
        lines = [{"question": f"{a}+{b}", "answer": f"<<{a}+{b}>>#### {a + b}"} for a, b in pairs]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)


def run_training(values, dataset, workdir):
    config = read_config(values)
    setup = Setup.of(config, dataset.vocabulary, make_mesh(config.mesh))
    seen = []
    state = train(config, setup, dataset, workdir, lambda p: seen.append(p) or {})
    return state, seen


def samples(run, num=32):
    return run.generate(prompt_of("2+3"), n=num, batch_size=8, seed=5, steps=12)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Eight virtual devices cost more than they show here; test_llada.py spreads a base on them."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: first)
        yield


@pytest.fixture(scope="module", autouse=True)
def shared_programs():
    with training_programs.shared():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory, one_device):
    """A folder with a converted LLaDA, sums to learn, and a run trained on them."""
    home = tmp_path_factory.mktemp("retrofit")
    state = torch_llada.random_state(SIZES)
    torch_llada.save(home / "source", SIZES, state)
    import_model(home / "source", home / "base")
    write_arithmetic(home / "files")
    dataset = Gsm8kConfig(str(home / "files"), LENGTH).write(home / "data", ByteTokenizer({}))
    run_training(config_values(home), dataset, home / "run")
    return home


@pytest.fixture(scope="module")
def dataset(home):
    return open_dataset(home / "data")


@pytest.fixture(scope="module")
def run(home):
    return load(home / "run")


def whole_values(home, **training):
    values = config_values(home, **training)
    values["model"]["llada"] |= {"train_base": True, "lora": {}}
    values["optimizer"]["group_learning_rates"] = {}
    return values


def base_part(params):
    flat = traverse_util.flatten_dict(jax.device_get(params))
    return {path: value for path, value in flat.items() if not is_trained(path)}


def trained_part(params):
    flat = traverse_util.flatten_dict(jax.device_get(params))
    return {path: value for path, value in flat.items() if is_trained(path)}


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return [line["loss"] for line in lines if "loss" in line]


def test_training_learns_and_leaves_the_base_as_it_was(home, run):
    history = losses(home / "run")
    assert history[-1] < history[0] / 2
    base = open_base(home / "base")
    for path, value in base_part(run.params).items():
        np.testing.assert_array_equal(value, base.reader(path)(...), err_msg=str(path))


def test_checkpoints_hold_what_is_trained_alone(home, run):
    trained = sum(value.nbytes for value in trained_part(run.params).values())
    saved = home / "run" / "checkpoints" / str(STEPS)
    for item in ("state", "ema"):
        names = {path.name.split(".")[0] for path in (saved / item).iterdir()}
        metadata = (saved / item / "_METADATA").read_text()
        assert "lora_a" in metadata, names
        assert "attention_norm" not in metadata
        assert "embedding" not in metadata.replace("time_embedding", "")
    size = sum(path.stat().st_size for path in (saved / "ema").rglob("*") if path.is_file())
    assert size < 2 * trained


def test_a_base_is_trained_whole(home, dataset, tmp_path):
    """The run begins with it, holds what came of it, and needs it no more."""
    values = whole_values(home, num_steps=20)
    values["model"]["llada"]["base"] = str(tmp_path / "gone")
    config = read_config(values)
    setup = Setup.of(config, dataset.vocabulary, make_mesh(config.mesh))
    make_state, shardings = init_state(setup, make_optimizer(config.optimizer, 20), config.seed)
    begin = functools.partial(
        start_from,
        config,
        setup,
        first_state(make_state, shardings),
        sharded_shapes(make_state, shardings),
    )
    with pytest.raises(UserError, match="no converted model in"):
        begin()
    import_model(home / "source", tmp_path / "gone")
    base = open_base(home / "base")
    for params in (begin().params, begin().ema):
        for path, value in base_part(params).items():
            np.testing.assert_array_equal(value, base.reader(path)(...), err_msg=str(path))
    state, _ = run_training(values, dataset, tmp_path / "run")
    assert not state.frozen
    (tmp_path / "gone").rename(tmp_path / "elsewhere")
    run = load(tmp_path / "run")
    for path, value in base_part(run.params).items():
        assert np.abs(value - base.reader(path)(...)).max() > 1e-5, path
    assert len(samples(run, num=2)) == 2
    with pytest.raises(UserError, match="holds all of its model; leave it out"):
        load(tmp_path / "run", base=str(tmp_path / "elsewhere"))


@pytest.mark.parametrize("change", [{"train_mask": True}, {"lora": {"rank": 4}}])
def test_what_a_base_trained_whole_does_not_need_is_refused(home, change):
    values = whole_values(home)
    values["model"]["llada"] |= change
    with pytest.raises(UserError, match="train_base: the whole base is trained already; set"):
        read_config(values)


@pytest.fixture(scope="module")
def written(run):
    return samples(run)


def test_sampling_keeps_the_prompt_and_writes_an_answer(written):
    assert all(record.text.startswith(prompt_of("2+3")) for record in written)
    assert any("####" in record.text for record in written)


@pytest.fixture(scope="module")
def merged_home(home, tmp_path_factory):
    """A folder with the run merged into its base, and that base exported."""
    folder = tmp_path_factory.mktemp("merged")
    merge_run(home / "run", folder / "merged")
    export_model(open_base(folder / "merged" / "base"), folder / "exported")
    return folder


def test_merged_exported_and_read_again_it_writes_the_same(merged_home, written, tmp_path):
    merged = load(merged_home / "merged")
    assert not any("lora" in name for path in trained_part(merged.params) for name in path)
    assert samples(merged) == written
    import_model(merged_home / "exported", tmp_path / "again")
    again = load(merged_home / "merged", base=str(tmp_path / "again"))
    assert samples(again) == written


def test_the_merged_base_is_what_pytorch_computes(merged_home, run):
    state = safetensors.torch.load_file(merged_home / "exported" / "model.safetensors")
    original = torch_llada.random_state(SIZES)
    params = jax.device_get(run.params)
    for layer in range(SIZES.layers):
        name = f"model.transformer.blocks.{layer}.v_proj.weight"
        a, b = (torch.tensor(params["blocks"]["v"][f"lora_{x}"][layer]).double() for x in "ab")
        expected = original[name].double() + 2.0 * (a @ b.reshape(4, -1)).T
        torch.testing.assert_close(state[name].double(), expected, atol=1e-6, rtol=1e-6)
        assert not torch.allclose(state[name], original[name], atol=1e-3)
        same = f"model.transformer.blocks.{layer}.up_proj.weight"
        assert torch.equal(state[same], original[same])


def test_adapters_go_to_peft_and_back(home, run, tmp_path):
    export_adapters(home / "run", tmp_path / "peft")
    tensors = safetensors.torch.load_file(tmp_path / "peft" / "adapter_model.safetensors")
    params = jax.device_get(run.params)
    prefix = "base_model.model.model.transformer"
    a = tensors[f"{prefix}.blocks.1.q_proj.lora_A.weight"]
    np.testing.assert_array_equal(a.numpy(), params["blocks"]["q"]["lora_a"][1].T)
    b = tensors[f"{prefix}.ff_out.lora_B.weight"]
    np.testing.assert_array_equal(b.numpy(), params["head"]["lora_b"].T)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8.0, "LORA")
    assert f"{prefix}.ff_out".removeprefix("base_model.model.") in config["target_modules"]

    def read(setup, shapes):
        architecture = open_base(setup.base).architecture
        return read_peft(tmp_path / "peft", architecture, setup.model.lora, shapes)

    config = read_config(config_values(home))
    import_run(tmp_path / "run", config, ByteTokenizer({}), read)
    returned = trained_part(load(tmp_path / "run").params)
    for path, value in trained_part(run.params).items():
        if path[-1].startswith("lora"):
            np.testing.assert_array_equal(returned[path], value)

    narrow = config_values(home)
    narrow["model"]["llada"]["lora"]["rank"] = 2
    with pytest.raises(UserError, match=r"does not fit .*; set there rank = 4 instead of 2$"):
        import_run(tmp_path / "other", read_config(narrow), ByteTokenizer({}), read)
    del tensors[f"{prefix}.ff_out.lora_B.weight"]
    tensors[f"{prefix}.blocks.1.q_proj.lora_A.weight"] = torch.zeros(4, 5)
    safetensors.torch.save_file(tensors, tmp_path / "peft" / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"missing: .*ff_out.lora_B.weight; of another shape: .*q_"):
        import_run(tmp_path / "other", config, ByteTokenizer({}), read)
    assert not (tmp_path / "other").exists()


def test_a_run_starts_from_what_another_has_learned(home, dataset, run, tmp_path):
    """And goes on from its own checkpoint when it is taken up again, base included."""
    values = config_values(home, start=str(home / "run"), num_steps=1)
    values["optimizer"]["learning_rate"] = 1e-12
    values["optimizer"]["group_learning_rates"] = {}
    for num_steps in (1, 2):
        values["training"]["num_steps"] = num_steps
        state, seen = run_training(values, dataset, tmp_path / "next")
        assert state.step == num_steps
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            trained_part(run.params),
            traverse_util.flatten_dict(jax.device_get(state.params)),
        )
        for path, value in base_part(seen[0]).items():
            np.testing.assert_array_equal(value, base_part(run.params)[path])
    values["data"]["max_length"] += 1
    with pytest.raises(UserError, match=r"another model \(data.max_length was 48, is 49"):
        run_training(values, dataset, tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": ""}, "llada.base is empty"),
        ({"base": "/nowhere"}, "no converted model in /nowhere"),
        ({"mlp_size": 24}, "mlp_size = 48 instead of 24"),
        ({"rope_theta": 1e4}, "rope_theta = 500000.0 instead of 10000.0"),
        ({"embedding_size": 250}, "the tokenizer has 258 ids, more than the model's 250 rows"),
    ],
)
def test_a_base_that_does_not_fit_is_named(home, dataset, tmp_path, change, message):
    values = config_values(home)
    values["model"]["llada"] |= change
    with pytest.raises(UserError, match=message):
        run_training(values, dataset, tmp_path / "w")


def test_an_mdm_trains_adapters_alone(home, dataset):
    config = read_config(config_values(home) | {"method": "mdm"})
    setup = Setup.of(config, dataset.vocabulary, make_mesh(config.mesh))
    trained, frozen = parameter_shapes(setup)
    assert {path[-1] for path in traverse_util.flatten_dict(trained)} == {"lora_a", "lora_b"}
    assert set(traverse_util.flatten_dict(frozen)) == {
        leaf.path for leaf in leaves(open_base(home / "base").architecture)
    }


def test_a_pattern_that_names_nothing_is_an_error(home, dataset, tmp_path):
    values = config_values(home)
    values["optimizer"]["group_learning_rates"] = {"lorra_*": 1e-4}
    with pytest.raises(UserError, match=r"no parameter fits 'lorra_\*'; they are .*head/lora_a"):
        run_training(values, dataset, tmp_path / "w")


def test_what_a_config_says_of_adapters_is_what_the_network_has(tmp_path):
    """Field by field, whatever fields there are."""
    lora = {"rank": 3, "alpha": 5.0, "rslora": True, "dropout_rate": 0.25, "targets": "up,down"}
    assert set(lora) == {field.name for field in dataclasses.fields(LoraConfig)}
    values = config_values(tmp_path)
    values["model"]["llada"]["lora"] = lora
    config = read_config(values)
    setup = Setup.of(config, ByteTokenizer({}).vocabulary, make_mesh(config.mesh))
    assert setup.model.lora == Lora(**lora | {"targets": ("up", "down")})


def test_the_types_of_frozen_and_trained_parameters(home, dataset):
    """The base in bfloat16 and what is trained in float32, optimizer and average included."""
    values = config_values(home)
    values["model"]["compute_dtype"] = "bfloat16"
    config = read_config(values)
    setup = Setup.of(config, dataset.vocabulary, make_mesh(config.mesh))
    assert isinstance(setup.model, LLaDA)
    shapes = jax.eval_shape(init_state(setup, make_optimizer(config.optimizer, 10), 0)[0])
    assert {x.dtype for x in jax.tree.leaves(shapes.frozen)} == {np.dtype(jnp.bfloat16)}
    trained = jax.tree.leaves((shapes.params, shapes.ema))
    assert {x.dtype for x in trained} == {np.dtype(np.float32)}
    moments = sum(x.size for x in jax.tree.leaves(shapes.opt_state) if x.ndim)
    assert moments == 2 * sum(x.size for x in jax.tree.leaves(shapes.params))
