"""Correctors: take a row back in time, so that the steps that follow may mend it."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flexmdm_jax.process import Process
from flexmdm_jax.ranges import PositiveShare, Ranged
from flexmdm_jax.sampling.canvas import Canvas, remove
from flexmdm_jax.types import RowKeys


@dataclasses.dataclass(frozen=True)
class Remask(Ranged):
    """Noises a row back from time t to an earlier s: some tokens are masked again, some vanish.

    With an exact denoiser, and masks split from clean tokens as the interpolant splits them, the
    row has the law of time s afterwards, and of time t again once the steps have gone there. The
    same is done for rows of other splits, after confident tokens came first, by a rougher kernel.
    (Fixed-length samplers of this kind mask again and remove nothing; Wang et al. 2025, ReMDM.)

    Attributes:
      size: How far it goes back, in α, the share of tokens inserted; for MDM in β.
      every: It does so whenever so much has been gone forward in all; at 1, once, at the end.
        On a fixed grid rows go back only while three steps are left.
    """

    size: PositiveShare = 0.1
    every: PositiveShare = 0.25

    def due(self, corrected: Int[Array, "b"], process: Process) -> Float[Array, "b"]:
        """Returns the time to go back at next, after so many times: infinity for never.

        A row goes back at times that do not depend on it: only there is its law that of the time.
        """
        goal = self.every * (corrected + 1)
        # float32 may end up beyond 1 with the last multiple.
        time = _progress(process).inverse(jnp.clip(goal, 0.0, 1.0).astype(jnp.float32))
        return jnp.where(goal <= 1.0 + 1e-6, jnp.where(goal >= 1.0 - 1e-6, 1.0, time), jnp.inf)

    def earlier(self, t: Float[Array, "b"], process: Process) -> Float[Array, "b"]:
        """Returns the time to go back to."""
        schedule = _progress(process)
        return jnp.minimum(schedule.inverse(jnp.maximum(schedule.at(t) - self.size, 0.0)), t)

    def go_back(
        self,
        keys: RowKeys,
        canvas: Canvas,
        t: Float[Array, "b"],
        s: Float[Array, "b"],
        process: Process,
        *,
        keeps_split: bool,
        call: Int[Array, "b"] | None = None,
    ) -> Canvas:
        """Returns rows of time t noised back to time s <= t; fixed tokens stay.

        Args:
          keys: One key per row.
          canvas: Rows of time t.
          t: Their time.
          s: Where they go.
          process: Its kernel, backwards.
          keeps_split: Whether masks and clean tokens are split as the interpolant splits them.
          call: Its number, for the marks of tokens that are masked again; left out without marks.
        """
        masked = canvas.masks(process.vocabulary)
        split = _interpolants_split if keeps_split else _any_split
        clean_to_clean, clean_to_mask, mask_to_mask = (x[:, None] for x in split(t, s, process))
        draw = lambda key: jax.random.uniform(key, (canvas.tokens.shape[1],))  # noqa: E731
        level = jax.vmap(draw)(keys)
        free = canvas.real & ~canvas.fixed
        stays = jnp.where(masked, level < mask_to_mask, level < clean_to_clean + clean_to_mask)
        again = free & ~masked & (level >= clean_to_clean)
        canvas = canvas.replace(tokens=jnp.where(again, process.vocabulary.mask, canvas.tokens))
        if canvas.marks is not None:
            unknown = jnp.full_like(canvas.marks.confidence, jnp.nan)
            canvas = canvas.replace(marks=canvas.marks.renewed(again, call, unknown))
        return remove(canvas, free & ~stays, process.vocabulary)


def _progress(process: Process):
    return process.insertion if process.inserts else process.unmasking


def _interpolants_split(t, s, process: Process):
    """Returns the chances (clean stays clean, clean turns MASK, MASK stays) of the interpolant.

    Each is the joint chance of a token's states at s and t over that of its state at t.
    """
    clean = jnp.maximum(process.clean(t), 1e-30)
    exposure = process.exposure(s)
    turned = (process.unmasking.survival(s) - process.unmasking.survival(t)) * exposure / clean
    stays = exposure / jnp.maximum(process.exposure(t), 1e-30)
    return process.clean(s) / clean, turned, stays


def _any_split(t, s, process: Process):
    """Returns chances under which any token is as likely to be there at s, given it is at t.

    Of the clean tokens that stay, as many turn MASK as the interpolant has among what is there;
    for MDM, where all are there, as many as it turns.
    """
    ratio = lambda a, b: a / jnp.maximum(b, 1e-30)  # noqa: E731
    if not process.inserts:
        clean = ratio(process.clean(s), process.clean(t))
        return clean, 1.0 - clean, jnp.ones_like(clean)
    there = ratio(process.insertion.at(s), process.insertion.at(t))
    masked = jnp.clip(ratio(process.masked(s), process.insertion.at(s)), 0.0, 1.0)
    return there * (1.0 - masked), there * masked, there


CORRECTORS = {"remask": Remask}
