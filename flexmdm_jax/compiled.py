"""Compiled programs, kept from one start of a command to the next: where, and when none are."""

import os
import pathlib
import platform
import stat
import sys
import zlib

import filelock
import jax

from flexmdm_jax.errors import first_line

# What --compilation_cache is unless told.
AUTO = "auto"
# Least recently used programs go when there are more bytes than this.
_MOST_BYTES = 4 << 30
# Smaller programs are compiled about as fast as they are read.
_LEAST_SECONDS = 0.3


def keep_programs(asked: str) -> pathlib.Path | None:
    """Returns the folder that keeps compiled programs from now on; None if there is none.

    To be called once processes have joined, before anything is compiled. Programs are native code,
    so each kind of processor and each version of JAX has a folder of its own. A folder that cannot
    be used is said to be so, once, and nothing is kept.

    Args:
      asked: A folder; "" for none; AUTO for one in the user's cache, if one process runs, programs
        can be read back, and JAX_COMPILATION_CACHE_DIR names no other.
    """
    own = asked == AUTO
    if own and (jax.config.jax_compilation_cache_dir or not _worth_keeping()):
        return None
    folder = _own_folder() if own else pathlib.Path(asked)
    if not asked or folder is None:
        jax.config.update("jax_compilation_cache_dir", None)
        return None
    # Of several processes, one writes, and a lock on a shared disk would have the others wait. What
    # they keep has no times of use, without which JAX can limit nothing: it lies apart.
    limited = not jax.distributed.is_initialized()
    folder = folder / (_kind_of_machine() + ("" if limited else "-shared"))
    if problem := _problem(folder, limited):
        print(
            f"note: compiled programs are not kept: {folder}: {problem}; --compilation_cache=DIR "
            "names another folder, --compilation_cache= none",
            file=sys.stderr,
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES if limited else -1)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    return folder


def _problem(folder: pathlib.Path, limited: bool) -> str:
    """Returns why a folder cannot keep programs, or "" after making it ready."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_trusted(folder)
        if limited:
            _drop_torn(folder)
    except OSError as error:
        return error.strerror or first_line(error)
    return ""


def _own_folder() -> pathlib.Path | None:
    """Returns where programs are kept unless told; None for a user without a home."""
    # Relative paths are to be ignored, says the XDG Base Directory Specification.
    cache = os.environ.get("XDG_CACHE_HOME", "")
    cache = cache if os.path.isabs(cache) else os.path.expanduser("~/.cache")
    return pathlib.Path(cache) / "flexmdm_jax" / "compiled" if os.path.isabs(cache) else None


def _worth_keeping() -> bool:
    """Returns whether programs that are kept will be read back, and are the same everywhere.

    Some processes of several would read a program and others compile it anew, on GPUs with another
    choice of kernels: such a run must name a folder that all of them share. Programs for a CPU
    with AVX-512 are refused when they are read, with a page of log for each (jax-ml/jax #38445).
    """
    if jax.distributed.is_initialized():
        return False
    if jax.default_backend() != "cpu":
        return True
    processor = _processor()
    return bool(processor) and "avx512f" not in processor


def _processor() -> str:
    """Returns what the processor is and can do; "" where the system does not tell."""
    told = pathlib.Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    kinds = ("model name", "flags", "CPU part", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))


def _kind_of_machine() -> str:
    """Returns a name that machines share if one can run what another has compiled."""
    kind = f"{jax.lib.__version__} {platform.processor()} {_processor()}"
    return f"{platform.machine()}-{zlib.crc32(kind.encode()):08x}"


def _check_trusted(folder: pathlib.Path) -> None:
    """Raises PermissionError unless the folder is the user's alone to write to: it holds code."""
    info = folder.stat()
    if info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("it is somebody else's, or others may write there")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError("permission denied")


def _drop_torn(folder: pathlib.Path) -> None:
    """Removes what a process wrote half that was killed: JAX would stumble over it for ever."""
    with filelock.FileLock(folder / ".lockfile", timeout=10):
        for program in folder.glob("*-cache"):
            used = program.with_name(program.name.removesuffix("-cache") + "-atime")
            # The last that JAX writes of a program.
            if not used.exists():
                program.unlink()
