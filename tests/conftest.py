"""Set up before jax is imported: CPU, eight host devices, and shape checks at run time."""

import os
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

# Tests compile the same programs many times, in this process and in those they start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

from jaxtyping import install_import_hook

install_import_hook("flexmdm_jax", "beartype.beartype")

import hypothesis
import jax
import pytest
import tiny

jax.config.update("jax_numpy_rank_promotion", "raise")

# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("data") / "tiny", tiny.texts())


@pytest.fixture
def tiny_config(tiny_dataset):
    """A config as nested dicts, the test's own copy."""
    return tiny.config(tiny_dataset)
