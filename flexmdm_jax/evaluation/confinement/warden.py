"""Runs one program with its test, shut in: the steps from a process to a verdict.

    warden          outside; limits the wall time, says the verdict, ends when all below have ended
      checker       process 1 of the namespaces; holds the test and calls the program's functions
        program     the code that nobody has read

Told how by its first argument, and what by standard input, both JSON.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

from flexmdm_jax.evaluation.confinement import checker, seccomp, system, wire
from flexmdm_jax.evaluation.confinement.program import serve

# Names of what a system may lack.
NAMESPACES, SECCOMP = "namespaces", "seccomp"
_CHUNK = 1 << 16
# What a process of the sandbox ends with where it fails itself.
_BROKEN = 70


def main() -> None:
    """Prints {"outcome", "reason", "seconds"}, or {"missing", "reason"} where it cannot shut in."""
    settings = json.loads(sys.argv[1])
    wire.allow_long_numbers()
    system.die_with_parent()
    # Inside there are no devices.
    settings["nowhere"] = os.open(os.devnull, os.O_RDWR)
    verdict = _missing(NAMESPACES, system.enter_namespaces, settings) or _run(settings)
    print(json.dumps(verdict), flush=True)


def _missing(name: str, enter: Any, settings: Mapping[str, Any], *values: Any) -> dict[str, str]:
    """Returns {} after entering, or if that was not asked for; otherwise why it cannot be."""
    if name in settings["without"]:
        return {}
    try:
        enter(*values)
    except OSError as error:
        return {"missing": name, "reason": error.strerror or str(error)}
    return {}


def _run(settings: Mapping[str, Any]) -> dict[str, Any]:
    reads, writes = os.pipe()
    started = time.monotonic()
    first = os.fork()
    if not first:
        os.close(reads)
        _in_child(lambda: _check(settings, writes))
    os.close(writes)
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(first, first)
    written, in_time = _read_until(reads, started + settings["limits"]["wall_seconds"])
    seconds = time.monotonic() - started
    with contextlib.suppress(ProcessLookupError):
        os.killpg(first, signal.SIGKILL)
    # Of process 1 the end is reported when all others of its namespace have ended.
    _, status, usage = os.wait4(first, 0)
    if not in_time:
        limit = settings["limits"]["wall_seconds"]
        verdict = {"outcome": "timed out", "reason": f"not done after {limit:g} s"}
    elif written:
        verdict = json.loads(written)
    elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == _BROKEN:
        sys.exit(_BROKEN)
    else:
        outcome, reason = checker.ending(status, usage, settings["limits"]["cpu_seconds"])
        verdict = {"outcome": outcome, "reason": f"the test: {reason}"}
    return verdict | {"seconds": seconds}


def _in_child(work: Any) -> None:
    """Ends this process, a fork, after some work, whatever becomes of it."""
    status = _BROKEN
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _read_until(file: int, deadline: float) -> tuple[bytes, bool]:
    """Returns what is written to a pipe, and whether its writers ended before a deadline."""
    written = b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([file], [], [], left)[0]:
            chunk = os.read(file, _CHUNK)
            if not chunk:
                return written, True
            written += chunk
    return written, False


def _check(settings: Mapping[str, Any], verdict: int) -> None:
    """Is the checker: starts the program's process, and sends it a program once both are shut in.

    That process begins before the test is read, so its memory holds nothing of it.
    """
    os.setpgid(0, 0)
    system.die_with_parent()
    # Process 1 gets no signal that it does not handle, and this one Python would.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    enter, size = system.enter_empty_root, settings["limits"]["folder_bytes"]
    missing = _missing(NAMESPACES, enter, settings, size)
    questions, asks = os.pipe()
    answers, replies = os.pipe()
    program = 0 if missing else os.fork()
    if not missing and not program:
        _in_child(lambda: _be_the_program(settings, questions, replies))
    os.close(questions)
    os.close(replies)
    missing = missing or _shut_in(settings)
    if missing:
        os.write(verdict, json.dumps(missing).encode())
        return
    system.untraceable()
    job = json.load(sys.stdin)
    _silence(settings, 0, 1, 2)
    caller = checker.Caller(program, asks, answers, settings["limits"]["cpu_seconds"])
    outcome, reason = checker.judge(caller, **job)
    os.write(verdict, json.dumps({"outcome": outcome, "reason": reason}).encode())


def _be_the_program(settings: Mapping[str, Any], questions: int, replies: int) -> None:
    """Is the program's process: keeps two pipes, and answers through them."""
    _silence(settings, 0, 1, 2)
    _keep_only(questions, replies)
    if not _shut_in(settings):
        serve(questions, replies)


def _silence(settings: Mapping[str, Any], *files: int) -> None:
    """Has standard files read nothing and write to nowhere."""
    for file in files:
        os.dup2(settings["nowhere"], file)


def _keep_only(*kept: int) -> None:
    """Closes every file but those kept and the standard ones."""
    low = 3
    for file in sorted(kept):
        os.closerange(low, file)
        low = file + 1
    os.closerange(low, 1 << 16)


def _shut_in(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns {} after taking from this process what it could do harm with, or why it cannot be."""
    if NAMESPACES in settings["without"]:
        system.leave_groups()
    system.drop_user()
    # Who changes its user loses this.
    system.die_with_parent()
    system.no_new_privileges()
    system.limit(settings["limits"])
    return _missing(SECCOMP, seccomp.install, settings)
