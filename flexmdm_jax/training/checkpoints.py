"""Checkpoints with Orbax: asynchronous, complete or absent, the newest readable one wins."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from flexmdm_jax.errors import UserError, first_line
from flexmdm_jax.hosts import all_agree
from flexmdm_jax.training.checksums import array_checksums, json_checksum
from flexmdm_jax.training.feed import DeviceBatches
from flexmdm_jax.training.state import TrainState
from flexmdm_jax.training.tables import resize_tables
from flexmdm_jax.training.workdir import CHECKPOINTS, Experiment

_DAMAGED = "damaged_checkpoints"


class Checkpoints:
    """Saves and restores the checkpoints of a workdir; saving is asynchronous."""

    def __init__(
        self,
        workdir: pathlib.Path,
        experiment: Experiment,
        *,
        keep: int | None = None,
        read_only: bool = False,
    ):
        """Opens the checkpoints; keep says how many of the newest stay (None: all)."""
        self._workdir = workdir
        self._experiment = experiment
        self._manager = ocp.CheckpointManager(
            (workdir / CHECKPOINTS).absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=not read_only, cleanup_tmp_directories=not read_only
            ),
        )

    def save(self, state: TrainState, data: DeviceBatches) -> None:
        """Starts to save a state and the position in the data, unless that step is saved already.

        Raises:
          OSError: Or another exception of a save that failed earlier in the background.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        ema = self._as_stored(state.ema)
        rest = self._as_stored(_without_average(state))
        position = data.get_state()
        sums = {
            "ema": array_checksums(ema),
            "state": array_checksums(rest),
            "data": json_checksum(position),
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                ema=ocp.args.StandardSave(ema),
                state=ocp.args.StandardSave(rest),
                data=ocp.args.JsonSave(position),
                checksums=ocp.args.JsonSave(sums),
                experiment=ocp.args.JsonSave(self._experiment.to_json()),
            ),
        )

    def raise_failures(self) -> None:
        """Raises what went wrong in a save under way, if anything has; does not wait."""
        self._manager.check_for_errors()

    def save_average(self, step: int, ema: Any) -> None:
        """Saves averaged parameters alone: enough to sample and to start from, not to resume."""
        ema = self._as_stored(ema)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                ema=ocp.args.StandardSave(ema),
                checksums=ocp.args.JsonSave({"ema": array_checksums(ema)}),
                experiment=ocp.args.JsonSave(self._experiment.to_json()),
            ),
        )

    def wait(self) -> None:
        """Waits for saves under way; raises what went wrong in them."""
        self._manager.wait_until_finished()

    def restore(self, like: TrainState, data: DeviceBatches) -> TrainState | None:
        """Returns the newest complete state and moves the data there; None if nothing was saved.

        Unreadable checkpoints are reported, moved aside and passed over.

        Args:
          like: Shapes, types and shardings to restore into.
          data: Iterator to set.

        Raises:
          UserError: If there are checkpoints but none can be read.
        """
        rest = _without_average(like)

        def read(step: int) -> TrainState:
            items = self._read(
                step,
                ema=self._restore(like.ema),
                state=self._restore(rest),
                data=ocp.args.JsonRestore(),
            )
            data.set_state(items["data"])
            state = resize_tables(items["state"], rest)
            return TrainState(ema=resize_tables(items["ema"], like.ema), **state)

        _, state = self._newest(read, move_aside=True)
        return state

    def restore_ema(self, like: Any) -> tuple[int, Any]:
        """Returns (step, averaged parameters) of the newest complete checkpoint.

        Raises:
          UserError: If there is none.
        """

        def read(step: int) -> Any:
            return resize_tables(self._read(step, ema=self._restore(like))["ema"], like)

        step, ema = self._newest(read, move_aside=False)
        if step is None:
            raise UserError(f"no checkpoint in {self._workdir} yet; train until one is saved")
        return step, ema

    def close(self) -> None:
        """Waits for saves under way and releases Orbax's threads."""
        self._manager.close()

    def _as_stored(self, tree: Any) -> Any:
        """Returns arrays as files hold them, whatever the devices pad."""
        return resize_tables(tree, self._experiment.stored_shapes(tree))

    def _restore(self, like: Any) -> ocp.args.StandardRestore:
        return ocp.args.StandardRestore(self._experiment.stored_shapes(like))

    def _read(self, step: int, **items: ocp.args.CheckpointArgs) -> ocp.args.Composite:
        """Returns items of a checkpoint, which must be bit for bit what was saved.

        Those of earlier versions have no checksums and are taken as they are.

        Raises:
          ValueError: Naming an array that differs. Orbax raises other exceptions.
        """
        if self._has_checksums(step):
            items["checksums"] = ocp.args.JsonRestore()
        found = self._manager.restore(step, args=ocp.args.Composite(**items))
        for name, sums in (found.get("checksums") or {}).items():
            if name in items:
                _check(name, found[name], sums)
        return found

    def _has_checksums(self, step: int) -> bool:
        return (self._workdir / CHECKPOINTS / str(step) / "checksums").exists()

    def _newest(self, read, *, move_aside: bool):
        """Returns (step, read(step)) of the newest checkpoint that can be read, or two Nones."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            found, reason = None, "damaged for another process"
            # Orbax and TensorStore report damage in many exception types.
            try:
                found = read(step)
            except UserError:
                raise
            except Exception as error:
                reason = first_line(error)
            if all_agree(found is not None):
                return step, found
            logging.warning("checkpoint %d in %s is unreadable: %s", step, self._workdir, reason)
            if move_aside:
                self._move_aside(step)
        if steps:
            raise UserError(
                f"no readable checkpoint in {self._workdir} (tried steps {steps}); "
                "restore its files or start over in another --workdir"
            )
        return None, None

    def _move_aside(self, step: int) -> None:
        """Keeps a damaged checkpoint for its owner, but out of the way of a new one."""
        if jax.process_index() == 0:
            folder = self._workdir / _DAMAGED
            folder.mkdir(exist_ok=True)
            number = sum(1 for _ in folder.iterdir())
            (self._workdir / CHECKPOINTS / str(step)).rename(folder / f"{step}.{number}")
        # The others look again when it has been moved.
        all_agree(True)
        self._manager.reload()


def restore_average(workdir: pathlib.Path, experiment: Experiment, like: Any) -> tuple[int, Any]:
    """Returns (step, averaged parameters) of the newest complete checkpoint in a workdir.

    Args:
      workdir: Of a run; nothing there is changed.
      experiment: What it says of itself.
      like: Shapes, types and shardings to restore into.

    Raises:
      UserError: If there is none.
    """
    checkpoints = Checkpoints(workdir, experiment, read_only=True)
    try:
        return checkpoints.restore_ema(like)
    finally:
        checkpoints.close()


def _without_average(state: TrainState) -> dict[str, Any]:
    """Returns the fields of a state that are saved beside the average."""
    names = ("step", "rng", "params", "opt_state")
    return {name: getattr(state, name) for name in names}


def _check(name: str, item: Any, sums: Any) -> None:
    """Raises ValueError unless an item of a checkpoint has the checksums that were saved."""
    if name == "data":
        if json_checksum(item) != sums:
            raise ValueError("the position in the data differs from what was saved")
        return
    found = array_checksums(item)
    if differing := [path for path in found if sums.get(path) != found[path]]:
        raise ValueError(f"{name}{differing[0]} differs from what was saved (checksum)")
