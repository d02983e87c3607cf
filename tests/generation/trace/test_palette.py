"""Colours that can be read, and told apart by everybody."""

import importlib.resources
import itertools
import re

import numpy as np
import pytest

from flexmdm_jax.generation.trace import palette
from flexmdm_jax.generation.trace.spans import EDGES

CSS = importlib.resources.files("flexmdm_jax.generation.trace").joinpath("player.css")
THEMES = ("light", "dark")
# What is left of linear RGB without one kind of cones (Machado, Oliveira and Fernandes 2009).
VISION = {
    "all cones": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def colours(theme):
    """Returns the style sheet's colours by name."""
    pattern = r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\);"
    found = re.findall(pattern, CSS.read_text("utf-8"))
    return {name: pair[THEMES.index(theme)] for name, *pair in found}


def linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """Returns the contrast of WCAG 2.2, 1 to 21."""
    low, high = sorted(float(linear(x) @ [0.2126, 0.7152, 0.0722]) for x in (one, other))
    return (high + 0.05) / (low + 0.05)


def difference(one, other, vision):
    """Returns how far two colours are apart in CIE L*a*b*."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    white = np.array([0.9505, 1.0, 1.089])

    def lab(colour):
        seen = np.clip(np.array(vision) @ linear(colour), 0, 1)
        ratio = to_xyz @ seen / white
        x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    return float(np.linalg.norm(lab(one) - lab(other)))


def test_pictures_have_the_colours_of_the_page():
    light = colours("light")
    names = ("paper", "ink", "muted", "rule", "mask", "arrived", "corrected")
    assert {name: light[name] for name in names} == {
        name: getattr(palette, name.upper()) for name in names
    }
    steps = range(len(EDGES) + 1)
    assert tuple(light[f"fill-{step}"] for step in steps) == palette.FILLS
    assert tuple(light[f"line-{step}"] for step in steps) == palette.LINES
    assert len(palette.TERMINAL_STEPS) == len(steps)


@pytest.mark.parametrize("theme", THEMES)
def test_letters_and_lines_stand_out(theme):
    of = colours(theme)
    fills = [of[f"fill-{step}"] for step in range(5)]
    assert min(contrast(of["ink"], ground) for ground in [of["paper"], *fills]) >= 4.5
    assert min(contrast(of[name], of["paper"]) for name in ("muted", "corrected")) >= 4.5
    assert min(contrast(of[f"line-{step}"], of["paper"]) for step in range(5)) >= 3
    assert contrast(of["arrived"], of["mask"]) >= 3


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", THEMES)
def test_steps_are_told_apart_whatever_cones_are_missing(theme, vision):
    of = colours(theme)
    for kind in ("fill", "line"):
        steps = [of[f"{kind}-{step}"] for step in range(5)]
        pairs = itertools.combinations(steps, 2)
        assert min(difference(*pair, VISION[vision]) for pair in pairs) > 10, kind
