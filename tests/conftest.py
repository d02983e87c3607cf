"""Set up before jax is imported: CPU, eight host devices, and shape checks at run time."""

import gc
import os
import pathlib
import platform
import zlib
from math import inf

import effort

# Python looks for garbage among all that tests import and trace, a fifteenth of their time.
gc.set_threshold(10_000, 20, 20)

ROOT = pathlib.Path(__file__).parents[1]
os.environ["JAX_PLATFORMS"] = "cpu"
flags = (os.environ.get("XLA_FLAGS", ""), effort.COMPILER_FLAGS)
os.environ["XLA_FLAGS"] = " ".join((*flags, "--xla_force_host_platform_device_count=8"))


def _processor() -> str:
    """Returns what this machine's processor can do, as far as the system tells."""
    told = pathlib.Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    kinds = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "".join([*sorted(kinds), platform.processor()])


# Tests compile the same programs many times, in this process and in those they start. A folder
# that has moved to another processor keeps programs compiled for the first; beside one compiled
# anew they round otherwise, and two processes of a training drift apart.
CACHE = ROOT / ".pytest_cache" / f"xla-{zlib.crc32(_processor().encode()):08x}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from jaxtyping import install_import_hook

install_import_hook("flexmdm_jax", "beartype.beartype")

import browsers
import hypothesis
import jax
import jaxtyping
import orbax.checkpoint as ocp
import pytest
import tiny

jax.config.update("jax_numpy_rank_promotion", "raise")

# Of an array that all devices hold each saves a part, and compiles a program to cut it out: 144 of
# them before the first checkpoint of a tiny run. Thorough tests, and commands, cut all the same.
PARTS_OF_BYTES = effort.either(2**20, None)
ocp.type_handlers.register_type_handler(
    jax.Array,
    ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=PARTS_OF_BYTES),
    override=True,
)

# Of a worker, before it forgets what it has compiled.
MOST_BYTES = 2 << 30

# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


# Whose tests take longest, longest first: dealt out so, no worker is left alone with one of them.
FIRST = (
    *("test_entry_points", "test_faults", "test_step", "test_oracle_sampling", "test_aot"),
    *("test_meshes", "test_resume", "test_gpus", "test_train_step", "test_retrofit"),
    *("test_gpu_check", "test_generation_page", "test_judge", "test_tpu_compile"),
)


def pytest_collection_modifyitems(items):
    items.sort(
        key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST)
    )


def pytest_collection_finish():
    """What thousands of tests import stays: nobody need look through it for garbage again."""
    gc.freeze()


def _resident_bytes() -> float:
    """Returns what this process holds of memory, infinity where the system does not tell."""
    told = pathlib.Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if told.exists() else inf


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """A worker would hold on to every program it has compiled, gigabytes of them by the end.

    Those of one file serve the next until they are too many.
    """
    yield
    if _resident_bytes() > MOST_BYTES:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def unchecked():
    """Calls as users make them, without the checks of types that tests have besides."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("data") / "tiny", tiny.texts())


@pytest.fixture
def tiny_config(tiny_dataset):
    """A config as nested dicts, the test's own copy."""
    return tiny.config(tiny_dataset)


@pytest.fixture(scope="module")
def browser():
    """One for a file's tests; as long as it runs, nothing else can run a loop of asyncio's."""
    with browsers.started() as started:
        yield started
