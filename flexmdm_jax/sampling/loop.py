"""Batch sampling: the loop over calls of the network, each row at a pace of its own."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from flexmdm_jax.process import Process
from flexmdm_jax.sampling.canvas import Canvas, insert_masks
from flexmdm_jax.sampling.drawing import COLDEST, drawing
from flexmdm_jax.sampling.insertions import Insertions, Limits, place_one
from flexmdm_jax.sampling.leaps import Grid
from flexmdm_jax.sampling.lengths import scaled_gaps, still_missing
from flexmdm_jax.sampling.settings import SamplerConfig
from flexmdm_jax.sampling.state import Keys, Look, Move, Settings, State
from flexmdm_jax.sampling.unmasking import Choice, Span
from flexmdm_jax.schedules import LAST_TIME
from flexmdm_jax.types import (
    Denoiser,
    Encoding,
    HostOrDevice,
    RowKeys,
    Vocabulary,
    check_row_keys,
)


@flax.struct.dataclass
class Samples:
    """Finished sequences.

    Attributes:
      tokens: Fixed and generated tokens, then END up to the end of the row.
      lengths: Tokens before END.
      truncated: True where the buffer was too small for an insertion.
      cut_short: True where the calls ran out, and all masks left were unmasked at once.
      calls: Calls of the network that the row took.
      inserted: Insertions.
      broken: Of them those whose rate was above its bound; 0 but for exact sampling, and there
        unless the network contradicts itself.
      trace: Tokens after every call, or None.
    """

    tokens: Int[HostOrDevice, "b l"]
    lengths: Int[HostOrDevice, "b"]
    truncated: Bool[HostOrDevice, "b"]
    cut_short: Bool[HostOrDevice, "b"]
    calls: Int[HostOrDevice, "b"]
    inserted: Int[HostOrDevice, "b"]
    broken: Int[HostOrDevice, "b"]
    trace: Int[HostOrDevice, "n b l"] | None

    def sequences(self) -> list[Int[np.ndarray, "_"]]:
        """Returns the tokens of each row without END, of samples that are on the host."""
        return [row[:count] for row, count in zip(self.tokens, self.lengths, strict=True)]


def generate(
    keys: RowKeys,
    denoiser: Denoiser,
    canvas: Canvas,
    sampler: SamplerConfig,
    process: Process,
    *,
    settings: Settings | None = None,
    trace: int = 0,
    num_groups: int = 1,
) -> Samples:
    """Returns sequences grown from the canvas by inserting masks and unmasking them (Algorithm 1).

    Each call of the network is followed by events of both kinds on the same state; the sampler's
    pace says how far in time they go, row by row, and the loop ends when every row is done. A
    row's result depends on its own key, numbers and content, not on the rows beside it.

    Args:
      keys: One key per row.
      denoiser: The network.
      canvas: Fixed tokens and open gaps (FlexMDM) or prompt and masks (MDM).
      sampler: How to sample.
      process: What the network was trained on.
      settings: Numbers in place of the sampler's own, row by row. Whether it restricts f at all,
        by top_k or top_p, the sampler says.
      trace: Keep the tokens after each of so many calls.
      num_groups: See map_slots.

    Raises:
      ValueError: If there is not one key for each row, or the sampler asks for what the process
        cannot do.
    """
    num_rows, length = canvas.tokens.shape
    check_row_keys(keys, num_rows)
    sampler.check(process)
    settings = settings or sampler.settings(num_rows, length)
    state = State.start(canvas, sampler.pace.start(canvas, process))
    call = _caller(keys, denoiser, sampler, settings, process, num_groups=num_groups)
    states = jnp.zeros((trace, num_rows, length), canvas.tokens.dtype)

    def traced(carry):
        number, state, states = carry
        state = call(state)
        if trace:
            states = states.at[number].set(state.canvas.tokens, mode="drop")
        return number + 1, state, states

    going = lambda carry: jnp.any(~carry[1].done)  # noqa: E731
    number, state, states = jax.lax.while_loop(going, traced, (jnp.int32(0), state, states))
    tokens, lengths = cut_at_end(state.canvas.tokens, process.vocabulary)
    happened = jnp.arange(trace)[:, None, None] < number
    return Samples(
        tokens=tokens,
        lengths=lengths,
        truncated=state.truncated,
        cut_short=state.cut_short,
        calls=state.calls,
        inserted=state.inserted,
        broken=state.broken,
        trace=jnp.where(happened, states, state.canvas.tokens[None]) if trace else None,
    )


def advance(
    keys: RowKeys,
    denoiser: Denoiser,
    state: State,
    sampler: SamplerConfig,
    process: Process,
    settings: Settings,
    *,
    calls: Int[Array, ""],
    enough: Int[Array, ""],
    grows: bool,
    num_groups: int = 1,
) -> State:
    """Returns the state a few calls of the network later: what generate() does, a part at a time.

    Rows that have not been called begin; rows that rest stay as they are. Where a canvas has marks,
    they are kept up to date.

    Args:
      keys: One key per row, the same at every part.
      denoiser: The network.
      state: Where rows stand.
      sampler: How to sample; its kinds alone.
      process: What the network was trained on.
      settings: Numbers, row by row.
      calls: How many calls at most.
      enough: End as soon as so many rows have come to rest.
      grows: Whether there is a longer buffer for rows that outgrow this one; see State.
      num_groups: See map_slots.
    """
    clock = sampler.pace.start(state.canvas, process)
    state = state.replace(clock=_where(state.calls == 0, clock, state.clock))
    call = _caller(keys, denoiser, sampler, settings, process, grows=grows, num_groups=num_groups)
    rested = jnp.sum(state.rests)

    def going(carry):
        number, state = carry
        unfinished = (number < calls) & jnp.any(~state.rests)
        return unfinished & (jnp.sum(state.rests) - rested < enough)

    _, state = jax.lax.while_loop(
        going, lambda carry: (carry[0] + 1, call(carry[1])), (jnp.int32(0), state)
    )
    return state


def _caller(
    keys, denoiser, sampler, settings, process, *, grows: bool = False, num_groups: int
) -> Callable[[State], State]:
    """Returns what one call of the network does to the rows that do not rest."""
    # Asked once for all rows, not at every call.
    greedy = jnp.all(settings.temperature < COLDEST)

    def call(state: State) -> State:
        following = _step(keys, denoiser, state, sampler, settings, process, greedy, num_groups)
        outgrown = following.outgrown & grows
        if grows:
            following = _where(outgrown, state, following)
        following = following.replace(outgrown=outgrown)
        return _where(state.rests, state, following)

    return call


def _step(keys, denoiser, state: State, sampler, settings, process, greedy, num_groups) -> State:
    """Returns the state after one more call of the network, as if no row were done."""
    noise = Keys.of_call(keys, state.calls)
    alpha = process.insertion.at(state.t)[:, None]
    encoding = denoiser.encode(state.canvas.tokens, state.canvas.segment_ids, alpha)
    look = _look(state, encoding, settings, process)
    until = jnp.full_like(state.t, jnp.inf)
    if sampler.corrector:
        until = sampler.corrector.due(state.corrected, process)
    move = sampler.pace.move(noise.clock, state, look, until, settings, sampler.rule, process)
    state, move = _cut_short(state, move, look, settings, process)
    draw = drawing(
        noise.draw,
        denoiser,
        encoding.hidden,
        settings,
        process,
        confidence=sampler.rule.confidence,
        probability=state.canvas.marks is not None,
        restricts=sampler.restricts,
        greedy=greedy,
        num_groups=num_groups,
    )
    span = Span(state.t, move.t_next, all=move.unmask_all, one=move.unmask_one)
    choice = sampler.rule.choose(noise.choice, move.eligible, draw, process.unmasking, span)
    state = state.replace(calls=state.calls + 1, t=move.after, clock=move.clock)
    state = state.replace(canvas=_unmasked(state, choice))
    if process.inserts:
        state = _insert(noise.insert, state, look, move, sampler, process)
    done = move.ends | _settled(state, look, move, settings, process)
    state = state.replace(done=done | (state.calls >= settings.max_calls))
    return _correct(noise.correct, state, until, sampler, settings, process)


def _unmasked(state: State, choice: Choice) -> Canvas:
    """Returns the canvas after its call has unmasked some masks."""
    canvas, drawn = state.canvas, choice.draw
    if canvas.marks is not None:
        marks = canvas.marks.renewed(choice.slots, state.calls, drawn.probability)
        canvas = canvas.replace(marks=marks)
    return canvas.replace(tokens=jnp.where(choice.slots, drawn.tokens, canvas.tokens))


def _look(state: State, encoding: Encoding, settings: Settings, process: Process) -> Look:
    """Returns what a call shows of the rows that do not rest."""
    canvas, going = state.canvas, ~state.rests[:, None]
    gaps = jnp.where(canvas.open & going, encoding.gaps.astype(jnp.float32), 0.0)
    least, most = still_missing(canvas, settings)
    return Look(
        encoding=encoding,
        gaps=scaled_gaps(gaps, canvas.open & going, least, most),
        least=least,
        most=most,
        masked=canvas.masks(process.vocabulary) & going,
    )


def _cut_short(state: State, move: Move, look: Look, settings: Settings, process: Process):
    """Returns (state, move), changed where calls run out: all is inserted, then all unmasked."""
    last = state.calls + 1 >= settings.max_calls
    early = (state.calls + 2 >= settings.max_calls) & ~last & ~move.ends & process.inserts
    # A grid's own last steps cut nothing short.
    forced = (early & (move.insert < 1.0)) | (last & ~move.unmask_all & ~move.ends)
    move = move.replace(
        unmask_all=move.unmask_all | last,
        eligible=jnp.where(last[:, None], look.masked, move.eligible),
        insert=jnp.where(last, 0.0, jnp.where(early, 1.0, move.insert)),
        unmask_one=move.unmask_one & ~(last | early),
        insert_one=move.insert_one & ~(last | early),
        broken=move.broken & ~(last | early),
        after=jnp.where(early, LAST_TIME, move.after),
    )
    return state.replace(cut_short=state.cut_short | forced), move


def _insert(keys, state: State, look: Look, move: Move, sampler, process) -> State:
    """Returns the state with a step's insertions."""
    limits = Limits(room=state.canvas.room, least=look.least, most=look.most)

    def several() -> Insertions:
        return sampler.insertions.draw(keys, look.encoding, look.gaps, move.insert, limits)

    if sampler.pace.leaps:
        drawn = several()
    else:
        counts = place_one(keys, look.gaps, move.insert_one & (limits.room > 0))
        full = move.insert_one & (limits.room <= 0)
        one = Insertions(counts, overflow=full, crowded=jnp.zeros_like(full))
        # Event by event, several are inserted at once only where calls run out.
        mixed = lambda: _where(move.insert_one, one, several())  # noqa: E731
        drawn = jax.lax.cond(jnp.any(move.insert > 0), mixed, lambda: one)
    return state.replace(
        canvas=insert_masks(state.canvas, drawn.counts, process.vocabulary, state.calls),
        truncated=state.truncated | drawn.overflow,
        # That it is so only matters where there is a longer buffer.
        outgrown=drawn.overflow | drawn.crowded,
        inserted=state.inserted + jnp.sum(drawn.counts, axis=1),
        broken=state.broken + move.broken,
    )


def _settled(state: State, look: Look, move: Move, settings: Settings, process: Process):
    """Returns the rows in which nothing is left to happen, or next to nothing."""
    unmasked = ~jnp.any(state.canvas.masks(process.vocabulary), axis=1)
    # Whatever was missing has been inserted, or nothing could be.
    complete = (move.insert >= 1.0) | (state.t >= LAST_TIME)
    complete |= ~jnp.any(state.canvas.open, axis=1)
    expected = (look.num_masks == 0) & (look.missing < settings.finish_below)
    return unmasked & (complete | expected)


def _correct(keys, state: State, until, sampler, settings, process: Process) -> State:
    """Returns the state with the rows taken back for which it is time; others may have to wait."""
    corrector = sampler.corrector
    if not corrector:
        return state
    possible = (until <= 1.0) & ~state.cut_short & sampler.pace.may_go_back(state, settings)
    # What is removed takes two calls to come back.
    possible &= state.calls + 2 < settings.max_calls
    # Masks of the last insertions are not split as those of time 1, where there are none.
    whole = ~jnp.any(state.canvas.masks(process.vocabulary), axis=1)
    due = possible & jnp.where(until < 1.0, state.t >= until, whole & (state.t >= LAST_TIME))
    state = state.replace(done=state.done & ~possible)
    s = corrector.earlier(state.t, process)
    keeps_split = sampler.rule.keeps_split
    canvas = corrector.go_back(
        keys, state.canvas, state.t, s, process, keeps_split=keeps_split, call=state.calls
    )
    back = state.replace(
        canvas=canvas,
        t=s,
        done=jnp.zeros_like(state.done),
        corrected=state.corrected + 1,
        clock=sampler.pace.start(canvas, process),
    )
    return _where(due, back, state)


def _where(rows: Bool[Array, "b"], first, second):
    """Returns the first's rows where true, the second's elsewhere; all arrays start with rows."""
    pick = lambda x, y: jnp.where(rows.reshape(-1, *(1,) * (x.ndim - 1)), x, y)  # noqa: E731
    return jax.tree.map(pick, first, second)


def cut_at_end(
    tokens: Int[Array, "b l"], vocabulary: Vocabulary
) -> tuple[Int[Array, "b l"], Int[Array, "b"]]:
    """Returns (tokens with END from the first END on, tokens before it); the row's edge is one."""
    ends = jnp.pad(tokens == vocabulary.end, ((0, 0), (0, 1)), constant_values=True)
    lengths = jnp.argmax(ends, axis=1).astype(jnp.int32)
    after_end = jnp.arange(tokens.shape[1])[None, :] >= lengths[:, None]
    return jnp.where(after_end, vocabulary.end, tokens), lengths


def check_canvas(canvas: Canvas, sampler: SamplerConfig, process: Process) -> None:
    """Raises ValueError if a canvas or a process does not give what a sampler asks for.

    That is room for the least length, and steps for all blocks. It looks at the tokens, so jax.jit
    cannot trace it; generate() can be traced.
    """
    sampler.check(process)
    if sampler.min_length:
        _check_room(canvas, sampler.min_length)
    pace = sampler.pace
    if not isinstance(pace, Grid) or not pace.block_length:
        return
    num_blocks = int(jnp.max(pace.start(canvas, process))) + 1
    if sampler.steps < num_blocks:
        raise ValueError(
            f"steps = {sampler.steps} cannot fill {num_blocks} blocks of {pace.block_length} "
            "slots; use more steps or larger blocks"
        )


def _check_room(canvas: Canvas, min_length: int) -> None:
    """Raises ValueError if a row has no room for so many generated tokens."""
    # In NumPy: a server asks this beside what keeps the device busy.
    length, given = canvas.tokens.shape[1], int(np.max(np.sum(np.asarray(canvas.fixed), axis=1)))
    if given + min_length > length:
        raise ValueError(
            f"{min_length} generated tokens do not fit: rows have {length} slots, of which {given} "
            "are given or END"
        )
    if not np.all(np.any(np.asarray(canvas.open), axis=1)):
        raise ValueError(f"{min_length} generated tokens fit nowhere: no gap is open")
