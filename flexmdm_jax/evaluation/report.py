"""Tables and pictures of evaluations."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from flexmdm_jax.evaluation.controls import SHUFFLED, TEXT
from flexmdm_jax.evaluation.request import Table
from flexmdm_jax.files import png_of

# Of a text's evaluation, what its figures say.
TABLES = (
    Table(
        "How likely held-out text is: bounds on -log p",
        {
            "nats_per_sequence": "nats/seq",
            "nats_per_token": "nats/token",
            "nats_per_byte": "nats/byte",
            "perplexity": "perplexity",
        },
    ),
    Table(
        "Lengths, in tokens, and how far they are from those of held-out text",
        {
            "length_mean": "mean",
            "length_tv": "TV",
            "length_w1": "W1",
            "length_ks": "KS",
            "empty": "empty",
            "calls": "calls",
            "truncated": "truncated",
        },
    ),
    Table(
        "How varied texts are",
        {
            "token_entropy": "entropy",
            "sample_entropy": "of a text",
            "distinct_1": "distinct 1",
            "distinct_2": "distinct 2",
            "distinct_3": "distinct 3",
            "length_mean": "length",
        },
    ),
    Table(
        "How well they are written: what tells text from shuffled text",
        {
            "ngram_js_2": "JS 2-grams",
            "ngram_js_3": "JS 3-grams",
            "ngram_js_4": "JS 4-grams",
            "generative_perplexity": "gen. PPL",
            "generative_perplexity_per_text": "a text's",
            "too_short": "too short",
            "mauve": "MAUVE",
            "sample_entropy": "entropy",
            "distinct_2": "distinct 2",
            "length_mean": "length",
        },
    ),
)
# Figures that stand for how well texts are written, and so have to tell text from shuffled text.
_TELLING = (
    *(f"ngram_js_{n}" for n in (2, 3, 4)),
    "generative_perplexity",
    "generative_perplexity_per_text",
    "mauve",
)


def telling_tables(
    rows: Mapping[str, Mapping[str, float | None]],
) -> tuple[list[Table], list[str]]:
    """Returns (the tables of a text's evaluation, notes on what they leave out).

    A figure that is to say how well texts are written is shown if it tells text from shuffled text:
    if the controls differ by more than two standard errors of their difference.

    Args:
      rows: Label -> figures, the controls among them.
    """
    there = {key for figures in rows.values() for key in figures}
    silent = [key for key in _TELLING if key in there and not _tells(key, rows)]
    tables = []
    for title, columns in TABLES:
        shown = {x: text for x, text in columns.items() if x in there and x not in silent}
        # Those that stand in several tables are no reason for one.
        if any(sum(x in table.columns for table in TABLES) == 1 for x in shown):
            tables.append(Table(title, shown))
    notes = []
    if silent:
        notes.append(
            f"Not shown, since shuffled text has about the same: {', '.join(silent)}. More texts "
            "may tell them apart (--num)."
        )
    return tables, notes


def _tells(key: str, rows: Mapping[str, Mapping[str, float | None]]) -> bool:
    text, shuffled = rows[TEXT], rows[SHUFFLED]
    errors = [figures.get(f"{key}_error") for figures in (text, shuffled)]
    values = [figures.get(key) for figures in (text, shuffled)]
    if None in values + errors:
        return False
    return abs(values[0] - values[1]) > 2 * math.hypot(*errors)


def cell(figures: Mapping[str, float | None], key: str) -> str:
    """Returns a figure as a table has it, with its standard error; a dash for what is missing."""
    value, error = figures.get(key), figures.get(f"{key}_error")
    if value is None:
        return "-"
    numbers = [value] if error is None else [value, error]
    # Three decimals are enough for anybody, and too many for large numbers.
    return " ± ".join(f"{x:.3f}" if abs(value) < 1_000 else f"{x:.4g}" for x in numbers)


def format_table(rows: Mapping[str, Mapping[str, float | None]], columns: Mapping[str, str]) -> str:
    """Returns an aligned text table.

    Args:
      rows: Label -> {column key -> figure}; one that is missing or null shows as a dash.
      columns: Column key -> heading.
    """
    width = max(len(label) for label in rows)
    cells = {label: [cell(figures, key) for key in columns] for label, figures in rows.items()}
    widths = [
        max(len(heading), 9, *(len(row[number]) for row in cells.values()))
        for number, heading in enumerate(columns.values())
    ]
    lines = [("", list(columns.values())), *cells.items()]
    return "\n".join(
        f"{label:<{width}}" + "".join(f"  {x:>{n}}" for x, n in zip(row, widths, strict=True))
        for label, row in lines
    )


def rows_of(
    table: Table, rows: Mapping[str, Mapping[str, float | None]]
) -> dict[str, Mapping[str, float | None]]:
    """Returns the rows that have something to say in a table."""
    return {
        label: figures
        for label, figures in rows.items()
        if any(figures.get(key) is not None for key in table.columns)
    }


def format_tables(rows: Mapping[str, Mapping[str, float | None]], tables: Sequence[Table]) -> str:
    """Returns text tables under their titles."""
    texts = []
    for table in tables:
        shown = rows_of(table, rows) or rows
        text = format_table(shown, table.columns)
        texts.append(f"{table.title}\n{text}" if table.title else text)
    return "\n\n".join(texts)


def length_histograms(lengths: Mapping[str, Sequence[int] | np.ndarray], bin_width: int) -> bytes:
    """Returns a PNG of one length histogram a label, on shared axes; the first is the reference."""
    from matplotlib.figure import Figure

    reference, *others = lengths
    longest = max(max(values) for values in lengths.values())
    edges = np.arange(0, longest + bin_width + 1, bin_width)
    columns = min(max(len(others), 1), 3)
    count = -(-max(len(others), 1) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * count), layout="constrained")
    grid = figure.subplots(count, columns, sharey=True, squeeze=False)
    panels = grid.flatten()
    for panel in panels[max(len(others), 1) :]:
        panel.set_axis_off()
    for panel, label in zip(panels, others or [reference], strict=False):
        for name, style in ((reference, {"color": "0.75"}), (label, {"histtype": "step", "lw": 2})):
            values = np.asarray(lengths[name])
            share = np.full(len(values), 1 / len(values))
            panel.hist(values, bins=edges, weights=share, label=name, **style)
        panel.set_xlabel("length (tokens)")
        panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    for row in grid:
        row[0].set_ylabel(f"share of sequences per {bin_width} tokens")
    return png_of(figure)
