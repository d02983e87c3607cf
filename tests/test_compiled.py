"""Where compiled programs are kept, and that they are found there."""

import jax
import jax.monitoring
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flexmdm_jax import compiled
from flexmdm_jax.compiled import AUTO, keep_programs

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user's own cache, empty, and no other; JAX is as it was afterwards."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "_processor", lambda: "flags: avx avx2")
    yield tmp_path / "cache" / "flexmdm_jax" / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compile_anew(number):
    """Returns how many programs were found instead of being compiled."""
    found = []

    def count(event, **_):
        found.extend([event] if event == "/jax/compilation_cache/cache_hits" else [])

    jax.clear_caches()
    compilation_cache.reset_cache()
    jax.monitoring.register_event_listener(count)
    x = jax.device_put(jnp.arange(8.0), jax.devices()[0])
    jax.jit(lambda x: jnp.sort(jnp.sin(x) * number)).lower(x).compile()
    jax.monitoring.unregister_event_listener(count)
    return len(found)


def test_a_program_is_found_by_the_next_start(home, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    folder = keep_programs(AUTO)
    assert folder.parent == home
    assert compile_anew(17.0) == 0
    assert any(path.name.startswith("jit__lambda") for path in folder.iterdir())
    assert compile_anew(17.0) >= 1
    assert jax.config.jax_compilation_cache_max_size > 0, "it may not grow for ever"


def test_what_was_written_half_is_dropped(home):
    folder = keep_programs(AUTO)
    for name in ("whole-cache", "whole-atime", "torn-cache"):
        (folder / name).write_bytes(b"12345678")
    assert keep_programs(str(home)) == folder
    left = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert left == {"whole-cache", "whole-atime"}


def test_kinds_of_machines_share_nothing(home, monkeypatch):
    first = keep_programs(str(home))
    monkeypatch.setattr(compiled, "_processor", lambda: "flags: avx avx2 fma")
    second = keep_programs(str(home))
    monkeypatch.setattr(jax.lib, "__version__", "0.99.0")
    third = keep_programs(str(home))
    assert len({first, second, third}) == 3


def test_nothing_is_kept_where_nothing_is_asked_for(home, capsys):
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    assert keep_programs(AUTO) is None
    assert jax.config.jax_compilation_cache_dir == "/elsewhere", "the user's own choice"
    assert keep_programs("") is None
    assert jax.config.jax_compilation_cache_dir is None
    assert not home.exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("processor", ["", "flags: avx2 avx512f avx512bw"])
def test_a_cpu_whose_programs_cannot_be_read_back_keeps_none_unasked(home, monkeypatch, processor):
    monkeypatch.setattr(compiled, "_processor", lambda: processor)
    assert keep_programs(AUTO) is None
    assert not home.exists()
    assert keep_programs(str(home)) is not None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.config.update("jax_compilation_cache_dir", None)
    assert keep_programs(AUTO) is not None


def test_several_processes_share_a_folder_only_if_one_is_named(home, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert keep_programs(AUTO) is None
    shared = keep_programs(str(home))
    assert shared.parent == home
    assert jax.config.jax_compilation_cache_max_size == -1, "no lock on a shared disk"
    (shared / "theirs-cache").write_bytes(b"12345678")
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    assert keep_programs(str(home)) != shared
    assert (shared / "theirs-cache").exists(), "written without a time of use, and whole"


def file_in_the_way(home):
    home.parent.mkdir(parents=True)
    home.write_text("")


def open_to_others(home):
    keep_programs(AUTO).chmod(0o777)
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(file_in_the_way, "Not a directory"), (open_to_others, "others may write there")],
)
@pytest.mark.parametrize("named", [False, True])
def test_a_folder_that_cannot_be_used_is_said_to_be_so(home, capsys, spoil, reason, named):
    spoil(home)
    assert keep_programs(str(home) if named else AUTO) is None
    assert jax.config.jax_compilation_cache_dir is None
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: compiled programs are not kept: {home}")
    assert reason in line


def test_a_user_without_a_home_keeps_none(monkeypatch):
    for cache in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
        assert keep_programs(AUTO) is None
