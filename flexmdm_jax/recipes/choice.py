"""What to train on a text in so many minutes, and why; and the config file that says it."""

import dataclasses
import math
from collections.abc import Iterator

from flexmdm_jax.recipes.survey import Survey

# The rest of the time is for compiling, writing and measuring.
TRAINING_SHARE = 0.7
# Beyond that a small text is learned by heart.
MOST_PASSES = 60
FEWEST_STEPS = 20
# From so many characters on a vocabulary of so many pieces, of about so many characters each.
_VOCABULARIES = ((10_000_000, 4096, 3.5), (2_000_000, 1024, 2.8), (100_000, 512, 2.2))
# From so many minutes on, (features, layers).
_MODELS = ((240, 256, 6), (60, 192, 6), (20, 128, 4), (0, 96, 3))
_ROWS = 24


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is to be trained.

    Attributes:
      tokenizer: Its specification, as for `prepare`.
      max_length: Slots of the longest sequence.
      row_length: Of packed rows.
      hidden_size: Features.
      num_layers: Of the network.
      reasons: Why, a sentence for each.
    """

    tokenizer: str
    max_length: int
    row_length: int
    hidden_size: int
    num_layers: int
    reasons: tuple[str, ...]


def choose(text: Survey, minutes: float) -> Choice:
    """Returns what to train on a text in so many minutes on a CPU."""
    tokenizer, per_token, why = _vocabulary(text)
    tokens = text.longest(0.9) / per_token
    max_length = min(max(16 * math.ceil((tokens + 1) / 16), 32), 128)
    row_length = 2 * max_length if max_length <= 64 else max_length
    hidden, layers = next((h, n) for least, h, n in _MODELS if minutes >= least)
    cut = "; longer ones are cut" if text.longest(1.0) / per_token >= max_length else ""
    return Choice(
        tokenizer,
        max_length,
        row_length,
        hidden,
        layers,
        (
            f"tokenizer {tokenizer}: {why}",
            f"sequences of up to {max_length} tokens: 9 of 10 {text.unit}s have at most "
            f"{tokens:.0f}{cut}",
            f"packed rows of {row_length} slots, {_ROWS} a step: on a CPU, short rows are quick",
            f"{layers} layers of {hidden} features: what learns something in {minutes:g} minutes",
        ),
    )


def _vocabulary(text: Survey) -> tuple[str, float, str]:
    """Returns (specification of a tokenizer, characters of a token, why)."""
    characters = text.characters
    larger = 0
    for least, size, per_token in _VOCABULARIES:
        if characters >= least:
            # Bytes and control take 259 entries, and each character one. Text of the web has a few
            # hundred kinds: then the next larger vocabulary has room for pieces.
            for entries in (size, larger):
                if text.alphabet + 300 < entries:
                    return f"sentencepiece:{entries}", per_token, f"{characters:,} characters"
        larger = size
    wide = sum(len(part.encode()) for part in text.texts) / characters
    few = characters < _VOCABULARIES[-1][0]
    why = "characters are too few for pieces" if few else "characters are of too many kinds"
    return "bytes", 1 / wide, f"{characters:,} {why}"


def steps_within(minutes: float, step_seconds: float, sequences: int, per_step: float) -> int:
    """Returns how many steps to train.

    Args:
      minutes: For everything.
      step_seconds: Of one step.
      sequences: In the training split.
      per_step: Sequences of a step.
    """
    affordable = TRAINING_SHARE * 60 * minutes / step_seconds
    return max(int(min(affordable, MOST_PASSES * sequences / per_step)), FEWEST_STEPS)


def config_text(choice: Choice, data: str, num_steps: int) -> str:
    """Returns the config file.

    Args:
      choice: What it says.
      data: Folder of the prepared dataset.
      num_steps: Of the training.
    """
    lines = [
        '"""FlexMDM on text of your own, as quickstart chose it; all of it may be changed."""',
        "",
        "from ml_collections import ConfigDict",
        "",
        "",
        "def get_config() -> ConfigDict:",
        "    return ConfigDict(",
        *(f"        {line}" for line in _written(_values(choice, data, num_steps))),
        "    )",
    ]
    lines[-2] = lines[-2].rstrip(",")
    return "\n".join(lines) + "\n"


def _values(choice: Choice, data: str, num_steps: int) -> dict:
    return {
        "method": "flexmdm",
        "insertion": "sine",
        "unmasking": "polynomial:power=3",
        "model": {
            "hidden_size": choice.hidden_size,
            "num_layers": choice.num_layers,
            "num_heads": choice.hidden_size // 32,
            "condition_size": 64,
            "mark_start": True,
            "compute_dtype": "float32",
            "scan_unroll": choice.num_layers,
        },
        "data": {
            "path": data,
            "max_length": choice.max_length,
            "packing": True,
            "row_length": choice.row_length,
        },
        "optimizer": {
            "learning_rate": 0.5 / choice.hidden_size,
            "warmup_steps": min(50, num_steps // 5),
            "decay": "cosine",
            "weight_decay": 0.03,
            "b2": 0.98,
            "ema_decay": 0.995 if num_steps > 500 else 0.98,
        },
        "training": {
            "num_steps": num_steps,
            "batch_size": _ROWS,
            "time_warp": 2.0,
            "log_every": 25,
            "evaluate_every": 0,
            "sample_every": 0,
            "checkpoint_every": max(num_steps // 4, 1),
        },
        "evaluation": {"num_sequences": 64, "num_times": 4, "num_steps": 0},
    }


def _written(value: dict) -> Iterator[str]:
    """Yields the lines of nested dicts as Python has them."""
    yield "{"
    for name, inner in value.items():
        if isinstance(inner, dict):
            first, *rest = _written(inner)
            yield f'    "{name}": {first}'
            yield from (f"    {line}" for line in rest)
        else:
            text = f'"{inner}"' if isinstance(inner, str) and '"' not in inner else repr(inner)
            yield f'    "{name}": {text},'
    yield "},"
