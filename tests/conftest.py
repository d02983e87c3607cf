"""Set up before jax is imported: CPU, eight host devices, and shape checks at run time."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

from jaxtyping import install_import_hook

install_import_hook("flexmdm_jax", "beartype.beartype")

import jax
import pytest
import tiny

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("data") / "tiny", tiny.texts())


@pytest.fixture
def tiny_config(tiny_dataset):
    """A config as nested dicts, the test's own copy."""
    return tiny.config(tiny_dataset)
