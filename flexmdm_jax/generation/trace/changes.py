"""What happened between two frames: which token is which, although frames do not say so."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from flexmdm_jax.generation.trace.frames import Cell, Frame

# What it costs to take tokens for new ones or for ones that have gone; clean ones come from masks.
_INSERTED_MASK, _INSERTED_TOKEN, _REMOVED = 1, 2, 1


@dataclasses.dataclass(frozen=True)
class Change:
    """The one stretch of a text outside of which two frames are equal.

    Attributes:
      start: Its place, in both.
      old: Its tokens before.
      new: Its tokens afterwards.
      origins: Of each new token where it stood in old, or None if it was inserted.
    """

    start: int
    old: list[Cell]
    new: list[Cell]
    origins: list[int | None]


def change(before: Frame, after: Frame, mask: int) -> Change:
    """Returns what became of what.

    A mask and the token that it became stand for the same place, in either direction. Unless
    tokens were taken back there is one answer; else it is one with the fewest changes.

    Example: masks are M, and call 2 made of [A, M, M] the text [A, M, B, M], whose first M is new.
    The stretch begins at 1 with old [M] and new [M, B], whose origins are [None, 0].

    Args:
      before: An earlier frame.
      after: A later one.
      mask: MASK's id.
    """
    # Most calls change little, which is why the ends are not made into cells.
    start = _num_equal(zip(before.rows(), after.rows(), strict=False))
    rest = min(len(before.tokens), len(after.tokens)) - start
    backwards = zip(_from_the_end(before), _from_the_end(after), strict=False)
    same = _num_equal(itertools.islice(backwards, rest))
    old = before.cells(start, len(before.tokens) - same)
    new = after.cells(start, len(after.tokens) - same)
    return Change(start, old, new, _Search(mask, before.call).origins(old, new))


def origins(before: Frame, after: Frame, mask: int) -> tuple[int | None, ...]:
    """Returns of each token where it stood before, or None if it was inserted; see change()."""
    what = change(before, after, mask)
    tail = len(after.tokens) - what.start - len(what.new)
    return (
        *range(what.start),
        *(None if i is None else what.start + i for i in what.origins),
        *range(len(before.tokens) - tail, len(before.tokens)),
    )


def _from_the_end(frame: Frame) -> Iterator[tuple]:
    columns = (frame.tokens, frame.changed, frame.confidence, frame.fixed)
    return zip(*map(reversed, columns), strict=True)


def _num_equal(pairs: Iterable[tuple[tuple, tuple]]) -> int:
    """Returns how many pairs there are before the first that differs."""
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count


def _anchors(old: Sequence[Cell], new: Sequence[Cell]) -> list[tuple[int, int]]:
    """Returns places (before, after) of tokens that can be nothing but the same, ascending."""
    places = _only_places(old)
    anchors: list[tuple[int, int]] = []
    for key, j in _only_places(new).items():
        i = places.get(key, -1)
        if i > (anchors[-1][0] if anchors else -1):
            anchors.append((i, j))
    return anchors


def _only_places(cells: Sequence[Cell]) -> dict[tuple, int]:
    """Returns where those cells stand that occur once; given ones are told apart by their order."""
    keys: list[tuple] = []
    given = 0
    for cell in cells:
        given += cell.fixed
        keys.append((*cell, given) if cell.fixed else cell)
    counts = collections.Counter(keys)
    return {key: place for place, key in enumerate(keys) if counts[key] == 1}


@dataclasses.dataclass(frozen=True)
class _Search:
    """Finds origins, knowing MASK's id and the call since which things have changed."""

    mask: int
    call: int

    def origins(self, old: Sequence[Cell], new: Sequence[Cell]) -> list[int | None]:
        """Returns Change.origins: place by place where that can be, else at the least cost."""
        everything = range(len(new))
        stay = [j for j in everything if not self._is_new_mask(new[j])]
        # Nothing was taken back; or tokens were masked again, and none inserted or removed.
        for places in (stay, everything):
            if len(places) == len(old) and all(
                self._may_become(old[i], new[j]) for i, j in enumerate(places)
            ):
                of = {j: i for i, j in enumerate(places)}
                return [of.get(j) for j in everything]
        return self._aligned(old, new)

    def _is_new_mask(self, cell: Cell) -> bool:
        return cell.token == self.mask and cell.changed > self.call

    def _may_become(self, old: Cell, new: Cell) -> bool:
        """Returns whether a token may be another now: they are equal, or one of them is MASK."""
        unmasked_or_masked = (old.token == self.mask) != (new.token == self.mask)
        return old == new or (unmasked_or_masked and new.changed > self.call)

    def _aligned(self, old: Sequence[Cell], new: Sequence[Cell]) -> list[int | None]:
        """Returns the origins with the fewest changes, between tokens that are there only once."""
        result: list[int | None] = [None] * len(new)
        i = j = 0
        for anchor_i, anchor_j in [*_anchors(old, new), (len(old), len(new))]:
            for a, b in self._cheapest(old[i:anchor_i], new[j:anchor_j]):
                result[j + b] = i + a
            if anchor_j < len(new):
                result[anchor_j] = anchor_i
            i, j = anchor_i + 1, anchor_j + 1
        return result

    def _cheapest(self, old: Sequence[Cell], new: Sequence[Cell]) -> list[tuple[int, int]]:
        """Returns pairs of places (before, after) that stand for each other at the least cost."""
        insertions = [_INSERTED_MASK if x.token == self.mask else _INSERTED_TOKEN for x in new]
        # costs[i][j] is that of making the first j tokens of the first i.
        costs = [[0, *itertools.accumulate(insertions)]]
        for cell in old:
            above = costs[-1]
            row = [above[0] + _REMOVED]
            for j, other in enumerate(new):
                cost = min(above[j + 1] + _REMOVED, row[j] + insertions[j])
                if self._may_become(cell, other):
                    cost = min(cost, above[j] + (cell != other))
                row.append(cost)
            costs.append(row)
        pairs = []
        i, j = len(old), len(new)
        while i and j:
            cell, other = old[i - 1], new[j - 1]
            replaced = costs[i - 1][j - 1] + (cell != other)
            if costs[i][j] == replaced and self._may_become(cell, other):
                i, j = i - 1, j - 1
                pairs.append((i, j))
            elif costs[i][j] == costs[i - 1][j] + _REMOVED:
                i -= 1
            else:
                j -= 1
        return pairs
