"""How texts came about as one HTML file that plays them, without a network."""

import base64
import functools
import hashlib
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flexmdm_jax.files import json_bytes
from flexmdm_jax.generation.trace.encoding import Piece, player_data
from flexmdm_jax.generation.trace.frames import Trace


def page(traces: Sequence[Trace], piece: Piece, mask: int) -> str:
    """Returns an HTML page that plays traces; it holds all that it needs and loads nothing.

    The player is 38 kB. A frame is stored as what changed: 80 bytes for a call that inserts a mask
    and unmasks a token, however long the text is. A text of 1,150 tokens that took as many calls
    adds 90 kB, a hundred texts of 200 tokens add 2 MB.

    Args:
      traces: The texts, in the order to choose from.
      piece: The bytes of each token.
      mask: MASK's id.
    """
    data = element_json(player_data(traces, piece, mask))
    what = "a text" if len(traces) == 1 else f"{len(traces)} texts"
    return filled(_empty_page(), {"title": f"How {what} came about", "data": data})


@functools.cache
def _empty_page() -> str:
    """Returns the page without texts; its policy allows the scripts and styles in it, no others."""
    resources = importlib.resources.files(__package__)
    read = lambda name: resources.joinpath(name).read_text("utf-8")  # noqa: E731
    whole = filled(read("page.html"), {name: read(name) for name in ("player.css", "player.js")})
    allowed = {
        name: " ".join(_hash(text) for text in re.findall(rf"<{name}>(.*?)</{name}>", whole, re.S))
        for name in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; "
        "base-uri 'none'; form-action 'none'"
    )
    return filled(whole, {"policy": policy})


def element_json(values: Any) -> str:
    """Returns values as JSON that can stand in a script element of a page."""
    data = json_bytes(values, separators=(",", ":")).decode()
    # As JSON may have it, and no end of the element that holds it.
    return data.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def filled(template: str, values: Mapping[str, str]) -> str:
    """Returns a template with {{name}} replaced, in one go: values are not looked into."""
    pattern = "|".join(map(re.escape, values))
    return re.sub(r"\{\{(" + pattern + r")\}\}", lambda found: values[found[1]], template)


def _hash(text: str) -> str:
    """Returns how a policy names a script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
