"""Bad input to attention() is one line that names the argument."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from benchmarks.tpu_compiler import tpu_mesh
from flexmdm_jax.attention import Call, _announce, attention
from flexmdm_jax.attention.backends import choose_backend
from flexmdm_jax.attention.blocks import CHIPS, BlockSizes, plan


@pytest.fixture(autouse=True)
def _without_shape_checks():
    """Switches off the run-time annotations of the test suite, which users do not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def arguments(**changed):
    """Returns arguments that fit, with some replaced."""
    x = jnp.ones((2, 8, 4, 16))
    return {"q": x, "k": x, "v": x, "segment_ids": jnp.ones((2, 8), jnp.int32), **changed}


BAD = {
    "q has shape": {"q": jnp.ones((2, 8, 16))},
    "k has shape": {"k": jnp.ones((2, 9, 4, 16))},
    "v has shape": {"v": jnp.ones((2, 8, 2, 16))},
    "k has 3 heads and q 4": {"k": jnp.ones((2, 8, 3, 16)), "v": jnp.ones((2, 8, 3, 16))},
    "k is bfloat16 and q is float32": {"k": jnp.ones((2, 8, 4, 16), jnp.bfloat16)},
    "q is int32": {"q": jnp.ones((2, 8, 4, 16), jnp.int32)},
    "segment_ids has shape": {"segment_ids": jnp.ones((2, 7), jnp.int32)},
    "segment_ids is float32": {"segment_ids": jnp.ones((2, 8))},
    "segment_ids is bool": {"segment_ids": jnp.ones((2, 8), bool)},
    "segment_ids is not sorted in row 1": {
        "segment_ids": jnp.asarray([[1] * 8, [1, 2, 1, 0, 0, 0, 0, 0]])
    },
    "segment_ids is not sorted in row 0": {"segment_ids": jnp.asarray([[0] + [1] * 7, [1] * 8])},
}


@pytest.mark.parametrize("message", list(BAD))
def test_bad_argument_is_named(message):
    with pytest.raises(ValueError, match=message) as error:
        attention(**arguments(**BAD[message]))
    assert "\n" not in str(error.value)


def test_bad_argument_is_named_while_tracing():
    with pytest.raises(ValueError, match="segment_ids has shape"):
        jax.jit(attention)(**arguments(segment_ids=jnp.ones((2, 7), jnp.int32)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("palas", "unknown attention implementation 'palas'; choose one of xla, pallas"),
        ("pallas", "'pallas' runs on tpu only and this program is for cpu; choose 'xla'"),
        ("cudnn", "'cudnn' runs on gpu only and this program is for cpu"),
    ],
)
def test_a_backend_that_cannot_run_says_why(name, message):
    with pytest.raises(ValueError, match=message):
        attention(**arguments(), implementation=name)


def traced(**kwargs):
    """Returns the program of a call, as text, without touching a device."""
    shapes = jax.eval_shape(arguments)
    return str(jax.make_jaxpr(lambda kw: attention(**kw, **kwargs))(shapes))


def test_a_gpu_backend_is_refused_on_tpu():
    with jax.set_mesh(tpu_mesh("v5e")), pytest.raises(ValueError, match="this program is for tpu"):
        traced(implementation="cudnn")


def test_the_platform_chooses_the_kernel_on_tpu_and_xla_elsewhere():
    assert "pallas_call" not in traced()
    with jax.set_mesh(tpu_mesh("v5e")):
        assert "pallas_call" in traced()
        assert "pallas_call" not in traced(implementation="xla")


def test_the_choice_is_logged_once(caplog):
    _announce.cache_clear()
    with caplog.at_level("INFO", logger="flexmdm_jax.attention"):
        attention(**arguments())
        attention(**arguments())
    assert [record.getMessage() for record in caplog.records] == ["attention: xla on cpu"]


HOPPER = "NVIDIA H100 80GB HBM3"


def _call(packed=False, dtype=jnp.bfloat16, head_size=64, causal=False, kind=HOPPER):
    return Call(jnp.dtype(dtype), head_size, packed, causal, kind)


AMPERE, BLACKWELL = "NVIDIA A100-SXM4-80GB", "NVIDIA B200"


def test_a_gpu_takes_cudnn_for_rows_of_one_segment():
    chosen = lambda call: choose_backend(None, "gpu", call).name  # noqa: E731
    for kind in (HOPPER, AMPERE, BLACKWELL):
        assert chosen(_call(kind=kind)) == "cudnn"
        assert chosen(_call(dtype=jnp.float16, head_size=128, kind=kind)) == "cudnn"
    for other in ({"dtype": jnp.float32}, {"head_size": 136}, {"causal": True}):
        assert chosen(_call(**other)) == "xla"


def test_a_hopper_takes_its_kernel_for_packed_rows_and_other_cards_xla():
    chosen = lambda **call: choose_backend(None, "gpu", _call(packed=True, **call)).name  # noqa: E731
    for kind in (HOPPER, "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA GH200 480GB", "NVIDIA H20"):
        assert chosen(kind=kind) == "pallas_gpu"
    for kind in (AMPERE, BLACKWELL, "NVIDIA GeForce RTX 4090", "Tesla V100-SXM2-32GB"):
        assert chosen(kind=kind) == "xla"
    # A size of head that cuDNN does not take is padded.
    assert chosen(head_size=36) == "pallas_gpu"
    for other in ({"dtype": jnp.float32}, {"head_size": 136}, {"causal": True}):
        assert chosen(**other) == "xla"


def test_why_a_gpu_takes_plain_xla_is_said(caplog):
    _announce.cache_clear()
    call = _call(packed=True, kind=AMPERE)
    for _ in range(2):
        _announce(choose_backend(None, "gpu", call), "gpu")
    [record] = caplog.records
    assert record.getMessage() == (
        "attention: xla on gpu (cudnn takes rows of one segment and these hold several; pallas_gpu "
        f"is for Hopper GPUs (H100, H200) and this program for {AMPERE})"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (_call(packed=True), "'cudnn' takes rows of one segment and these hold several"),
        (_call(dtype=jnp.float32), "'cudnn' takes float16 and bfloat16 and q is float32"),
        (_call(head_size=136), r"'cudnn' takes heads of 8, 16, … 128 features and these have 136"),
        (_call(head_size=36), "and these have 36; choose 'xla'"),
        (_call(causal=True), "'cudnn' always sees both ways"),
    ],
)
def test_calls_that_cudnn_cannot_do_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        choose_backend("cudnn", "gpu", call)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (_call(dtype=jnp.float32), "'pallas_gpu' takes float16 and bfloat16 and q is float32"),
        (_call(head_size=136), "takes heads of up to 128 features and these have 136; choose"),
        (_call(kind=AMPERE), "is for Hopper GPUs .H100, H200. and this program for NVIDIA A100"),
        (_call(causal=True), "'pallas_gpu' always sees both ways"),
    ],
)
def test_calls_that_the_kernel_for_hopper_cannot_do_say_why(call, message):
    with pytest.raises(ValueError, match=message) as error:
        choose_backend("pallas_gpu", "gpu", call)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("query", "key"), [(64, 256), (128, 192), (256, 128), (0, 128)])
def test_block_sizes_that_do_not_fit_registers_are_refused(query, key):
    with pytest.raises(ValueError, match=r"blocks\.(query|key) = "):
        BlockSizes(query, key)


def test_heads_are_dealt_out_to_every_core():
    shape = (8, 1024, 12, 12, 64, 2)
    assert plan(*shape, chip=CHIPS["v5e"]).kv_heads == 12
    assert 12 // plan(*shape, chip=CHIPS["v5p"]).kv_heads % 2 == 0


def test_limits_of_the_chip_are_errors_before_compilation():
    with pytest.raises(ValueError, match="MiB of vector memory and the chip gives 15 MiB"):
        plan(1, 1 << 15, 2, 2, 64, 2, chip=CHIPS["v4"])
    with pytest.raises(ValueError, match="use fewer rows per device"):
        plan(4096, 4096, 2, 2, 64, 2, chip=CHIPS["v5e"])
