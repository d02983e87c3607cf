"""A report as one HTML file that holds all that it shows and loads nothing."""

import base64
import html
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flexmdm_jax.evaluation.comparison import COLUMNS as DIFFERENCES
from flexmdm_jax.evaluation.report import cell, rows_of
from flexmdm_jax.evaluation.request import Report, Sample, Table
from flexmdm_jax.files import json_text
from flexmdm_jax.generation.trace.page import filled

# Texts of each run that the page shows.
_SHOWN = 12

# What figures are, for readers who meet them here.
MEANINGS = {
    "nats_per_sequence": "bound on -log p of a held-out text and its end, and an MDM's padding",
    "nats_per_token": "all these nats over all tokens, END not counted",
    "nats_per_byte": "the same nats over the bytes of the texts, whatever the tokenizer",
    "perplexity": "exp(nats/token): a bound as well",
    "length_mean": "tokens of a text",
    "length_tv": "total variation of lengths, in bins, 0 to 1",
    "length_w1": "Wasserstein-1: by how many tokens lengths would have to be moved",
    "length_ks": "Kolmogorov-Smirnov: the largest difference of the cumulative shares",
    "empty": "share of texts without a token",
    "calls": "of the network, for a text",
    "truncated": "share of texts that found no more room",
    "token_entropy": "of all tokens together, in nats",
    "sample_entropy": "of a text's own tokens, in nats: low where a text repeats itself",
    "distinct_1": "share of different ones among all tokens",
    "distinct_2": "share of different ones among all pairs of neighbouring tokens",
    "distinct_3": "share of different ones among all triples",
    "ngram_js_2": "Jensen-Shannon divergence of pairs of tokens to held-out text, in nats",
    "ngram_js_3": "of triples",
    "ngram_js_4": "of four neighbours",
    "generative_perplexity": "exp of the reference's mean nats over all tokens, its own",
    "generative_perplexity_per_text": "exp of a text's mean nats, mean of texts of over 10 tokens",
    "too_short": "share of texts of at most 10 tokens, which the figure before leaves out",
    "mauve": "area under the divergence curve in the reference's features; 1 is the same",
    "success": "share answered rightly",
    "flexible": "share whose last number, wherever it stands, is the right one",
    "answered": "share with a number where one has to stand",
    "answer_tokens": "of an answer, on average",
}


def report_page(
    title: str,
    report: Report,
    differences: Mapping[str, Mapping[str, float | None]],
    settings: Mapping[str, Any],
) -> str:
    """Returns the page of a report.

    Args:
      title: Its heading.
      report: What it shows.
      differences: Rows of the paired comparison, see comparison.differences(); may be empty.
      settings: What the figures depend on.
    """
    parts = [_section(table, rows_of(table, report.rows)) for table in report.tables]
    parts += [f"<p>{html.escape(note)}</p>" for note in report.notes]
    if differences:
        parts.append(_section(Table("Compared on the same examples", DIFFERENCES), differences))
    parts += [_picture(name, data) for name, data in report.pictures.items()]
    parts.append(_texts(report.samples))
    shown = {key for table in report.tables for key in table.columns}
    parts.append(_meanings(key for key in MEANINGS if key in shown))
    parts.append(
        "<details><summary>How this was made</summary><pre>"
        f"{html.escape(json_text(settings, indent=2))}</pre></details>"
    )
    template = importlib.resources.files(__package__).joinpath("report.html").read_text("utf-8")
    return filled(template, {"title": html.escape(title), "body": "\n".join(parts)})


def _section(table: Table, rows: Mapping[str, Mapping[str, float | None]]) -> str:
    title = f"<h2>{html.escape(table.title)}</h2>" if table.title else ""
    heads = "".join(
        f'<th scope="col" title="{html.escape(MEANINGS.get(key, ""))}">{html.escape(text)}</th>'
        for key, text in table.columns.items()
    )
    lines = "".join(
        f'<tr><th scope="row">{html.escape(label)}</th>'
        + "".join(f"<td>{cell(figures, key)}</td>" for key in table.columns)
        + "</tr>"
        for label, figures in rows.items()
    )
    return (
        f'<section>{title}<div class="wide"><table><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div></section>"
    )


def _picture(name: str, data: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    label = html.escape(name.removesuffix(".png"))
    return f'<figure><img alt="{label}" src="{source}"><figcaption>{label}</figcaption></figure>'


def _texts(samples: Sequence[Sample]) -> str:
    runs: dict[str, list[Sample]] = {}
    for sample in samples:
        runs.setdefault(sample.run, []).append(sample)
    parts = []
    for run, texts in runs.items():
        items = "".join(f"<li><pre>{html.escape(x.text)}</pre></li>" for x in texts[:_SHOWN])
        title = f"{run}: {min(len(texts), _SHOWN)} of {len(texts):,} texts"
        parts.append(f"<details><summary>{html.escape(title)}</summary><ol>{items}</ol></details>")
    return "\n".join(parts)


def _meanings(keys: Iterable[str]) -> str:
    headings = {key: key.replace("_", " ") for key in keys}
    if not headings:
        return ""
    items = "".join(
        f"<dt>{html.escape(text)}</dt><dd>{html.escape(MEANINGS[key])}</dd>"
        for key, text in headings.items()
    )
    note = "<p>± is one standard error: of drawing other held-out texts, or other samples.</p>"
    return f"<details open><summary>What the figures are</summary>{note}<dl>{items}</dl></details>"
