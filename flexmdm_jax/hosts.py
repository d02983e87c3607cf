"""Several processes as one run: how they find each other, agree, and stop together."""

import hashlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.files import json_text

T = TypeVar("T")


def join(
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    *,
    together: bool = False,
    time_limit: int = 300,
) -> None:
    """Joins the other processes of the run; does nothing where there are none.

    On Cloud TPU and under Slurm or MPI they are found by JAX itself, if together is set or Slurm
    started several tasks; elsewhere all three of coordinator, num_processes and process_id say it.
    Must come before anything that touches a device.

    Args:
      coordinator: host:port of process 0.
      num_processes: Of the run.
      process_id: Which of them this is.
      together: Look for the others.
      time_limit: Seconds after which a missing process ends this one with a line and status 2.

    Raises:
      UserError: If the flags do not fit together, nothing says where the others are, or process 0
        cannot listen there.
    """
    if not (coordinator or together or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1):
        if num_processes or process_id >= 0:
            raise UserError("--num_processes and --process_id need --coordinator=host:port")
        return
    where = {}
    if coordinator:
        if not 0 <= process_id < num_processes:
            raise UserError(
                f"--process_id={process_id} of --num_processes={num_processes}: "
                "processes count from 0; give both with --coordinator"
            )
        if not coordinator.rpartition(":")[2].isdecimal() or ":" not in coordinator:
            raise UserError(f"--coordinator={coordinator}: write host:port, as in 10.0.0.2:8476")
        if process_id == 0:
            _check_free(coordinator)
        where = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
        }
    # JAX ends the process with a stack trace at its own limit: ours comes first.
    alarm = threading.Timer(time_limit, _give_up, (coordinator or "the cluster's", time_limit))
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(**where, initialization_timeout=time_limit + 60)
        jax.devices()
    except ValueError as error:
        raise UserError(
            f"the other processes cannot be found ({error}); "
            "give --coordinator, --num_processes and --process_id"
        ) from None
    finally:
        alarm.cancel()


def _check_free(coordinator: str) -> None:
    """Raises UserError if process 0 cannot listen where the others will look for it.

    JAX does not survive it: some versions raise, others end in a segmentation fault.
    """
    with socket.socket() as probe:
        # One that has just closed, as after a restart, is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(coordinator.rpartition(":")[2])))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--coordinator={coordinator}: process 0 cannot listen there "
                f"({first_line(error)}); choose another port, or end the program that has it"
            ) from None


def _give_up(coordinator: str, time_limit: int) -> None:
    print(
        f"error: after {time_limit} s not all processes had joined (coordinator: {coordinator}); "
        "start every one, check address and firewall, or raise --join_time_limit",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def leave(status: int) -> None:
    """Ends a process of several at once: the usual way out waits for the others."""
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def check_agreement(what: dict[str, str]) -> None:
    """Raises UserError in every process unless all of them hold the same texts.

    Args:
      what: Name of each text, as it stands in the message -> the text.
    """
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(text.encode()).digest() for text in what.values()]
    ours = np.frombuffer(b"".join(digests), np.uint8).reshape(len(what), -1)
    everyones = multihost_utils.process_allgather(ours)
    for number, name in enumerate(what):
        differing = np.any(everyones[:, number] != everyones[0, number], axis=1)
        if differing.any():
            raise UserError(
                f"{name} of process {np.flatnonzero(differing).tolist()} differs from that of "
                "process 0; start every process with the same code, config, flags and data"
            )


def all_agree(yes: bool) -> bool:
    """Returns whether every process says yes; they all have to ask."""
    if jax.process_count() == 1:
        return yes
    return bool(np.all(multihost_utils.process_allgather(np.asarray(yes))))


def of_first_process(value: Any) -> Any:
    """Returns in every process what JSON makes of process 0's value; they all have to ask."""
    if jax.process_count() == 1:
        return value
    text = json_text(value).encode() if jax.process_index() == 0 else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.frombuffer(text, np.uint8) if text else np.zeros(size, np.uint8)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))


def first_process_first(work: Callable[[], T]) -> T:
    """Returns work(), done by process 0 alone at first and by the others when it is through.

    Raises:
      UserError: In the others, if process 0 failed; it raises what went wrong.
    """
    if jax.process_count() == 1:
        return work()
    result, failure = None, None
    if jax.process_index() == 0:
        try:
            result = work()
        except Exception as error:
            failure = error
    if not all_agree(failure is None):
        raise failure or UserError("process 0 has stopped; its output says why")
    return result if jax.process_index() == 0 else work()


class Preemption:
    """Knows when the run has to stop: SIGTERM, Ctrl-C, or a notice from the cluster to any process.

    Used as a context; within it SIGTERM and a first SIGINT do not end the process, a second SIGINT
    does, at once. The distributed runtime of several processes carries a notice to all of them and
    picks a step they all can reach.
    """

    def __init__(self):
        """Prepares; nothing is changed yet."""
        self._told = False
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            handlers = {}
            # A shell lets what it starts in the background ignore Ctrl-C.
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                handlers[signal.SIGINT] = self._interrupt
            if jax.process_count() == 1:
                handlers[signal.SIGTERM] = self._tell
            self._previous = {number: signal.signal(number, x) for number, x in handlers.items()}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _tell(self, *_):
        self._told = True

    def _interrupt(self, *_):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("stopping after this step; Ctrl-C again: at once", file=sys.stderr, flush=True)
        # With several processes JAX has a handler of its own, which tells all of them.
        os.kill(os.getpid(), signal.SIGTERM)

    def due(self, step: int) -> bool:
        """Returns whether to stop after this step; every process has to ask after every step."""
        return self._told or multihost_utils.reached_preemption_sync_point(step)


def check_workers(name: str, number: int) -> None:
    """Raises UserError if so many worker processes would bring this machine down.

    Args:
      name: What the user calls them.
      number: How many are asked for.
    """
    cpus = os.cpu_count() or 1
    most = max(16, 4 * cpus)
    if number > most:
        raise UserError(f"{name} = {number}: a machine of {cpus} CPUs takes {most} at most")
