"""Tables and pictures of evaluations."""

from collections.abc import Mapping, Sequence

import numpy as np

from flexmdm_jax.files import png_of

# Figures of an evaluation and their headings.
COLUMNS = {
    "nats_per_sequence": "nats/seq",
    "nats_per_token": "nats/token",
    "nats_per_token_error": "± s.e.",
    "perplexity": "perplexity",
    "length_tv": "length TV",
    "length_w1": "length W1",
    "length_ks": "length KS",
    "length_mean": "mean length",
    "token_entropy": "token entropy",
    "ngram_js_2": "JS 2-grams",
    "ngram_js_3": "JS 3-grams",
    "calls": "calls",
}


def format_table(rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str]) -> str:
    """Returns an aligned text table.

    Args:
      rows: Label -> {column key -> figure}; one that is missing or null shows as a dash.
      columns: Column key -> heading.
    """
    width = max(len(label) for label in rows)
    widths = {key: max(len(heading), 9) for key, heading in columns.items()}
    header = " " * width + "".join(f"  {columns[key]:>{widths[key]}}" for key in columns)
    lines = [header]
    for label, figures in rows.items():
        cells = (
            f"  {figures[key]:>{widths[key]}.3f}"
            if figures.get(key) is not None
            else f"  {'-':>{widths[key]}}"
            for key in columns
        )
        lines.append(f"{label:<{width}}" + "".join(cells))
    return "\n".join(lines)


def length_histograms(lengths: Mapping[str, Sequence[int] | np.ndarray], bin_width: int) -> bytes:
    """Returns a PNG of one length histogram a label, on shared axes; the first is the reference."""
    from matplotlib.figure import Figure

    reference, *others = lengths
    longest = max(max(values) for values in lengths.values())
    edges = np.arange(0, longest + bin_width + 1, bin_width)
    figure = Figure(figsize=(4.2 * max(len(others), 1), 3.2), layout="constrained")
    panels = figure.subplots(1, max(len(others), 1), sharey=True, squeeze=False)[0]
    for panel, label in zip(panels, others or [reference], strict=True):
        for name, style in ((reference, {"color": "0.75"}), (label, {"histtype": "step", "lw": 2})):
            values = np.asarray(lengths[name])
            share = np.full(len(values), 1 / len(values))
            panel.hist(values, bins=edges, weights=share, label=name, **style)
        panel.set_xlabel("length (tokens)")
        panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"share of sequences per {bin_width} tokens")
    return png_of(figure)
