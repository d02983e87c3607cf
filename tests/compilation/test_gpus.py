"""Compiling for GPUs that are not there, by the CUDA compiler that needs none."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from effort import either
from experiments import LAYERS, LENGTH, small_experiment
from flax.core import meta
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from flexmdm_jax.chips import CHIPS, chip_of
from flexmdm_jax.compilation import gpus
from flexmdm_jax.compilation import report as reports
from flexmdm_jax.compilation.cost import program_cost
from flexmdm_jax.compilation.hlo import parse_program
from flexmdm_jax.compilation.programs import PROGRAMS
from flexmdm_jax.compilation.topology import find_topology
from flexmdm_jax.config import MeshConfig
from flexmdm_jax.errors import UserError
from flexmdm_jax.models.dit import make_denoiser
from flexmdm_jax.sharding import make_mesh

# A product over all pairs of slots of both rows, of each layer.
SCORES = LAYERS * 2 * 128 * 2 * LENGTH**2


@pytest.fixture(scope="module", autouse=True)
def unchecked_shapes():
    """JAX lowers with placeholders where arrays will be, which checks of shapes would refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def a_cudnn(monkeypatch):
    """Stands in for half a gigabyte of cuDNN, which JAX asks for its version before it compiles."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 92000)


def _report(experiment, topology=None):
    return reports.report(experiment, "train", topology or find_topology("h100-1"))


def _kernels(model):
    """Returns cuDNN's kernels of the gradient of a network's features."""
    place = SingleDeviceSharding(find_topology("h100-1").devices[0])
    slots = jax.ShapeDtypeStruct((2, LENGTH), jnp.int32, sharding=place)
    alpha = jax.ShapeDtypeStruct((2, 1), jnp.float32, sharding=place)
    params = jax.eval_shape(
        lambda: model.clone(attention_implementation="xla").init(
            jax.random.key(0), *(jnp.zeros((1, 2), jnp.int32),) * 2, jnp.zeros((1, 1))
        )
    )["params"]

    def loss(params, tokens, segment_ids, alpha):
        denoiser = make_denoiser(model, params)
        return denoiser.encode(tokens, segment_ids, alpha).hidden.astype(jnp.float32).sum()

    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), meta.unbox(params)
    )
    mesh = make_mesh(MeshConfig(), find_topology("h100-1").devices)
    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss)).lower(params, slots, slots, alpha).compile().as_text()
    return sorted(re.findall(r'custom_call_target="__cudnn\$fmha(\w+)"', text))


@pytest.fixture(scope="module")
def plain():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 92000)
        return _report(small_experiment("h100-1"))


def test_operations_of_cudnn_are_counted(plain):
    """Its backward kernel computes the scores again."""
    assert plain.flops == pytest.approx(plain.model_flops + SCORES, rel=0.005)


def test_operations_of_the_kernels_for_packed_rows_are_counted():
    """Nine products where six are needed: both backward kernels compute scores, and gradients."""
    packed = _report(small_experiment("h100-1", packed=True))
    assert packed.flops == pytest.approx(packed.model_flops + 3 * SCORES, rel=0.005)


@pytest.mark.parametrize(
    ("remat", "kernels"),
    [("dots", ["Softmax", "SoftmaxBackward"]), ("full", ["Softmax", "Softmax", "SoftmaxBackward"])],
)
def test_remat_of_all_but_products_does_not_run_the_forward_kernel_again(remat, kernels):
    model = small_experiment("h100-1", remat=remat).setup.model
    assert _kernels(model) == kernels


def test_hosts_share_the_work_and_only_data_crosses_between_them(plain):
    devices = find_topology("2*h100-2").devices
    mesh = make_mesh(MeshConfig(data=2, fsdp=2), devices)
    hosts = np.vectorize(lambda device: device.process_index)(mesh.devices)
    assert (hosts == np.asarray([0, 1])[:, None, None]).all()
    four = _report(
        small_experiment("2*h100-2", mesh=MeshConfig(2, 2, 1)), find_topology("2*h100-2")
    )
    assert four.chips == 4
    assert four.flops == pytest.approx(plain.flops, rel=0.02)
    assert not plain.collectives
    assert {"all-gather", "all-reduce"} <= set(four.collectives)
    assert four.parameters < 0.6 * plain.parameters


def test_what_hosts_would_refuse_is_refused():
    """Where they run each is a slice; the compiler's cards all say that theirs is the first."""
    with pytest.raises(UserError, match="data = 1 does not split over 2 slices"):
        find_topology("2*h100-2").mesh(MeshConfig(data=1, fsdp=-1))
    assert find_topology("h100-2").mesh(MeshConfig(data=1, fsdp=-1)).shape["fsdp"] == 2


def test_a_program_too_large_for_a_card_is_said_to_be(plain, monkeypatch):
    """The compiler makes it all the same; of a small one it is known what it takes."""
    held = plain.parameters + plain.optimizer
    assert held + plain.temporaries <= plain.peak < held + 1.2 * plain.temporaries
    card = find_topology("h100-1")
    x = jax.ShapeDtypeStruct(
        (1 << 20,), jnp.float32, sharding=SingleDeviceSharding(card.devices[0])
    )
    lowered = jax.jit(lambda x: jnp.sort(x)[::-1] + 1).lower(x)
    monkeypatch.setitem(PROGRAMS, "train", lambda experiment: lowered)
    fits, refused = (
        _report(small_experiment("h100-1"), dataclasses.replace(card, memory=memory))
        for memory in (16 << 20, 11 << 20)
    )
    # Argument, result and what is sorted between them.
    assert fits.fits
    assert 12 << 20 <= fits.peak < 16 << 20
    assert not refused.fits
    assert refused.temporaries == fits.peak
    assert "GiB too many" in "\n".join(refused.lines())
    tight = dataclasses.replace(card, memory=11 << 20)
    with pytest.raises(UserError, match="not even one row of train fits a chip of h100-1"):
        reports.search(lambda rows: small_experiment("h100-1", rows), "train", tight, most=1)


@pytest.mark.parametrize("kind", either(["a100", "b200"], ["a100", "h100", "h200", "b200"]))
def test_cards_are_those_jax_names_and_cublas_is_counted(kind):
    topology = find_topology(f"{kind}-1")
    assert chip_of(topology.devices[0].device_kind) == topology.chip == CHIPS[kind]
    assert 0.9 * topology.chip.hbm < gpus.GPUS[kind].memory <= topology.chip.hbm
    place = SingleDeviceSharding(topology.devices[0])
    a, b = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)
        for shape in ((4, 256, 384), (4, 384, 512))
    )
    lowered = jax.jit(lambda a, b: jnp.einsum("bij,bjk->bik", a, b)).lower(a, b)
    for triton in (True, False):
        text = lowered.compile({"xla_gpu_enable_triton_gemm": triton}).as_text()
        assert ("__cublas$" in text) != triton
        assert program_cost(parse_program(text)).flops == 2 * 4 * 256 * 384 * 512


def test_memory_is_what_jax_takes_of_a_card(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    whole = gpus.GPUS["h100"].memory
    assert gpus.usable_memory("h100") == whole * 3 // 4
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.9")
    assert gpus.usable_memory("h100") == pytest.approx(0.9 * whole)
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "90%")
    with pytest.raises(UserError, match="XLA_CLIENT_MEM_FRACTION=90%: give a share"):
        gpus.usable_memory("h100")


def test_a_compiler_that_is_not_installed_is_one_line_with_the_command(monkeypatch):
    def missing(**_):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    gpus.gpu_devices.cache_clear()
    with pytest.raises(UserError, match=r"pip install jax-cuda13-plugin==\d") as caught:
        find_topology("h100-8")
    assert "\n" not in str(caught.value)
    gpus.gpu_devices.cache_clear()


def test_a_cudnn_that_is_not_installed_is_one_line_with_the_command(monkeypatch):
    def missing():
        raise RuntimeError("cuDNN not found.")

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", missing)
    with pytest.raises(UserError, match="pip install nvidia-cudnn-cu13"):
        _report(small_experiment("h100-1"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"compute_dtype": "float32"}, "'cudnn' takes float16 and bfloat16 and q is float32"),
        ({"hidden_size": 280}, "'cudnn' takes heads of 8, 16, … 128 features and these have 140"),
    ],
)
def test_what_cudnn_cannot_do_is_said_before_anything_is_compiled(model, message):
    with pytest.raises(UserError, match=f"config.model.attention: .*{message}"):
        small_experiment("h100-1", attention="cudnn", **model)
    small_experiment("h100-1", **model)
