"""Traces that were never sampled: texts that come about token by token, some taken back."""

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator, Sequence

from flexmdm_jax.generation.trace.frames import Cell, Frame, Trace

MASK = 0

PROMPT = "Why does a model insert before it unmasks?"
TEXT = (
    " Because a place can be known before its word is. The network first says how many tokens are "
    "missing from a gap, and only then which ones: “naïve” or “café”, 東京 or a plain comma, are "
    "chosen when their neighbours are there to be looked at.\n\n"
    "\tfor gap in gaps:\n\t\tinsert(gap)\n\nA text grows from its middle as well as from its "
    "ends, and nobody has to say beforehand how long it will be. 🙂"
)
SHORT = "Any order, any length: a mask is a promise that a token will stand here."


def _bits(word: str) -> list[bytes]:
    whole = word[0] < "\u3000"
    return [word.encode()] if whole else [bytes([byte]) for byte in word.encode()]


@dataclasses.dataclass
class Pieces:
    """A tokenizer of sorts: words with the space before them; what is beyond Latin, in bytes."""

    ids: dict[bytes, int] = dataclasses.field(default_factory=dict)
    pieces: dict[int, bytes] = dataclasses.field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        words = re.findall(r" ?[A-Za-zäéï]{1,7}|[^A-Za-zäéï]", text)
        return [self.id_of(bit) for word in words for bit in _bits(word)]

    def id_of(self, piece: bytes) -> int:
        token = self.ids.setdefault(piece, len(self.ids) + MASK + 1)
        self.pieces[token] = piece
        return token

    def __call__(self, token: int) -> bytes:
        return self.pieces[token]


def trace(
    pieces: Pieces,
    text: str,
    *,
    prompt: str = "",
    seed: int = 0,
    name: str = "0",
    per_call: float = 2.0,
    corrections: float = 0.0,
) -> Trace:
    """Returns a trace that ends in prompt + text.

    Args:
      pieces: Knows the tokens, and learns new ones.
      text: What is generated.
      prompt: What is given before it.
      seed: Decides all that is random.
      name: Its name.
      per_call: Mean of a call's insertions, and of its unmaskings.
      corrections: Chance of a call to take something back.
    """
    frames, _ = grow(pieces, text, prompt, seed, per_call, corrections)
    details = {
        "sampler": "exact" if per_call <= 1 else "adaptive",
        "seed": seed,
        "calls": frames[-1].call,
        "length": len(frames[-1].tokens),
        "truncated": False,
    }
    return Trace(name, tuple(frames), details)


def by_call(traces: Sequence[Trace]) -> Iterator[dict[str, Frame]]:
    """Yields the frames of traces call by call, as Gathering.calls() does."""
    frames = [(trace.name, frame) for trace in traces for frame in trace.frames]
    frames.sort(key=lambda named: named[1].call)
    for _, together in itertools.groupby(frames, lambda named: named[1].call):
        yield dict(together)


def grow(
    pieces: Pieces, text: str, prompt: str, seed: int, per_call: float, corrections: float
) -> tuple[list[Frame], list[list[int]]]:
    """Returns the frames of trace(), and of each which tokens of the sample its tokens are."""
    source = random.Random(seed)
    given, target = pieces.encode(prompt), pieces.encode(text)
    there = {i: Cell(token, 0, None, True) for i, token in enumerate(given)}
    ids = dict(enumerate([*given, *target]))
    missing = set(range(len(given), len(ids)))
    frames, places = [], []
    call = 0

    def record():
        done = 1 - len(missing) / max(len(target), 1)
        time = done if any(cell.token == MASK for cell in there.values()) or missing else 1.0
        places.append(sorted(there))
        frames.append(Frame.of(call, time, [there[i] for i in places[-1]]))

    record()
    while missing or any(cell.token == MASK for cell in there.values()):
        call += 1
        masks = [i for i, cell in there.items() if cell.token == MASK]
        # As a rule the first ones are guessed and the last ones known.
        sure = 1 - (len(missing) + len(masks)) / (len(target) + 1)
        for i in source.sample(masks, min(len(masks), _count(source, per_call))):
            confidence = source.betavariate(0.5 + 3 * sure, 1.4 - sure)
            there[i] = Cell(ids[i], call, confidence, False)
        for i in source.sample(sorted(missing), min(len(missing), _count(source, per_call))):
            missing.remove(i)
            there[i] = Cell(MASK, call, None, False)
        taken = [i for i, cell in there.items() if 0 < cell.changed < call and cell.token != MASK]
        if taken and missing and source.random() < corrections:
            i, j = source.choice(taken), source.choice(taken)
            there[i] = Cell(MASK, call, None, False)
            del there[j]
            missing.add(j)
        record()
    return frames, places


def _count(source: random.Random, mean: float) -> int:
    return int(mean) + (source.random() < mean % 1) if mean > 1 else source.random() < mean
