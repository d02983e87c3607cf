"""A model in Python: what it writes, and one line for what it cannot."""

import json

import jax
import numpy as np
import pytest
import tiny
from untrained import untrained_model, write_run

import flexmdm_jax
from flexmdm_jax.config import MeshConfig
from flexmdm_jax.errors import UserError
from flexmdm_jax.generation.requests import Request
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.sharding import parse_mesh


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("data"), tiny.texts())


@pytest.fixture(scope="module")
def model(dataset):
    return untrained_model(dataset, "flexmdm", tiny.LENGTH)


def test_texts_do_not_depend_on_what_is_asked_beside_them(model):
    given = ["ab", Request.infill("a", "c", n=2), Request.template("<gap>b<gap>", seed=7)]
    together = model.generate(given, seed=3)
    assert [x.text for x in together] == [
        x.text for one in given for x in model.generate([one], seed=3)
    ]
    assert together[0].seed != 3
    assert together[3].seed == 7
    assert model.generate("ab", seed=3)[0].seed == 3
    assert model.infill("a", "c", n=2, seed=together[1].seed) == together[1:3]
    assert model.generate([]) == []


def test_a_stream_ends_with_the_text(model):
    [result] = model.generate("ab", seed=5, temperature=0.5)
    *_, last = model.stream("ab", seed=5, temperature=0.5)
    assert last.tokens == result.tokens
    assert model.visible(last) == result.text


REFUSED = {
    "unknown setting 'temprature'; did you mean 'temperature'?": {"temprature": 1.0},
    "n = 0; it must be at least 1": {"n": 0},
    "seed = 4294967296; it must lie in": {"seed": 2**32},
    "seed = -1; it must lie in": {"seed": -1},
    "batch_size = 0; it must be at least 1": {"batch_size": 0},
    "length says it all": {"length": 3, "max_length": 4},
    "seed = 1.5; it must be an integer": {"seed": 1.5},
    "it must be an integer": {"seed": jax.random.key(0)},
    "n = 2.0; it must be an integer": {"n": 2.0},
    "n = true; it must be an integer": {"n": True},
    "steps = [1, 2]; it must be an integer": {"steps": [1, 2]},
    "temperature = array([0.5, 1. ]); it must be a number": {"temperature": np.array([0.5, 1])},
    "30 generated tokens do not fit": {"min_length": 30},
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused_in_a_line(model, message):
    with pytest.raises(UserError) as error:
        model.generate("ab", **REFUSED[message])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_grow_from_something(model):
    with pytest.raises(ValueError, match="no start"):
        model.complete([], SamplerConfig(), batch_size=4, seed=0)


@pytest.mark.usefixtures("unchecked")
def test_numbers_and_ids_of_numpy_are_as_good_as_pythons(model):
    ours = model.generate(["ab"], n=2, seed=3, steps=3, temperature=0.5)
    numpys = {"n": np.int64(2), "seed": np.uint32(3), "steps": np.int64(3)}
    assert model.generate(["ab"], **numpys, temperature=np.float32(0.5)) == ours
    jaxs = jax.numpy.asarray(0.5)
    assert model.generate(["ab"], n=2, seed=3, steps=3, temperature=jaxs) == ours
    [written] = model.generate([Request.prompt(np.array([97, 98]), seed=np.uint32(3))])
    assert model.generate([Request.prompt((97, 98), seed=3)]) == [written]
    json.dumps(written.json())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", [None, 5, [5, 6], [[5, 6]], b"ab", {"prompt": "ab"}])
def test_what_is_no_prompt_is_not_taken_for_one(model, given):
    with pytest.raises(UserError, match="neither a text nor a Request"):
        model.generate(given, temperature=0.5)


def test_requests_have_their_own_settings(model):
    with pytest.raises(UserError, match="a Request has its own n and sampler"):
        model.generate(Request.prompt("a"), temperature=0.5)
    with pytest.raises(UserError, match="n = 2; one sample is streamed at a time"):
        model.stream(Request.prompt("a", n=2))


def test_the_package_opens_models():
    from flexmdm_jax.model import load

    assert flexmdm_jax.load is load
    assert flexmdm_jax.Request is Request
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        flexmdm_jax.laod  # noqa: B018


def test_devices_share_a_model_as_they_are_told(dataset, tmp_path):
    """Matrices in halves, rows in quarters; texts are the same, whatever rounding says."""
    write_run(dataset, tiny.LENGTH, tmp_path / "run")
    whole = flexmdm_jax.load(tmp_path / "run")
    split = flexmdm_jax.load(tmp_path / "run", mesh=MeshConfig(data=4, fsdp=1, tensor=2))
    kernel = split.params["blocks"]["mlp_in"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape)[-1] == kernel.shape[-1] // 2
    assert whole.params["blocks"]["mlp_in"]["kernel"].is_fully_replicated
    assert split.generate("ab", n=4, steps=8) == whole.generate("ab", n=4, steps=8)
    with pytest.raises(UserError, match="= 3 x 1 x 1 does not fit 8 devices"):
        flexmdm_jax.load(tmp_path / "run", mesh=MeshConfig(data=3))


def test_the_mesh_of_a_flag():
    assert parse_mesh("tensor=-1") == MeshConfig(data=1, fsdp=1, tensor=-1)
    assert parse_mesh("data=2,tensor=4") == MeshConfig(data=2, fsdp=1, tensor=4)
    refused = {
        "rows=2": "--mesh=rows=2: unknown axis 'rows'; choose one of data, fsdp, tensor",
        "tensor": "'' is no number of devices; write tensor=8",
        "tensor=half": "'half' is no number of devices",
        "data=-1,tensor=-1": "one of them may be -1",
        "tensor=0": "sizes are positive",
        "data=2,data=4": "data is given twice",
    }
    for text, message in refused.items():
        with pytest.raises(UserError) as error:
            parse_mesh(text)
        assert message in str(error.value)
