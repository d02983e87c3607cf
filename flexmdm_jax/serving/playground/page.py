"""The page as one HTML text, which loads nothing and asks its own server alone."""

import html
import importlib.resources

from flexmdm_jax.generation import trace
from flexmdm_jax.generation.templates import MARK
from flexmdm_jax.generation.trace.page import element_json, filled
from flexmdm_jax.sampling.parsing import SAMPLERS
from flexmdm_jax.serving.service import Service


def page(service: Service, *, needs_key: bool) -> str:
    """Returns the page.

    Args:
      service: What it asks.
      needs_key: Whether people have to give a key.
    """
    process = service.writer.engine.process
    data = {
        "mask": process.vocabulary.mask,
        "gap": MARK,
        "inserts": process.inserts,
        "needsKey": needs_key,
        "samplers": SAMPLERS,
        "maxLength": service.writer.engine.max_length,
        "maxN": service.limits.max_n,
    }
    own = {name: _read(__package__, name) for name in ("playground.css", "playground.js")}
    theirs = {name: _read(trace.__name__, name) for name in ("player.css", "player.js")}
    values = {"data": element_json(data), "model": html.escape(service.served.name)}
    return filled(_read(__package__, "page.html"), own | theirs | values)


def _read(package: str, name: str) -> str:
    return importlib.resources.files(package).joinpath(name).read_text("utf-8")
