"""Curves: what they say of intervals, and that nothing is drawn of what was not measured."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from pictures import assert_shows_something

from flexmdm_jax.evaluation.curves import (
    Found,
    Panel,
    calls_curves,
    canvas_curves,
    success_curves,
)
from flexmdm_jax.evaluation.intervals import success_interval
from flexmdm_jax.evaluation.request import Way
from flexmdm_jax.sampling import SamplerConfig

SAMPLER = SamplerConfig(steps=8)
PANEL = Panel("success", "success (%)")


def way(canvas=0, rule="adaptive"):
    return Way(rule, "8 steps", SAMPLER, canvas)


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: curves by their label, bands, and horizontal lines."""
    calls = {"curves": {}, "bands": [], "lines": {}}
    errorbar, axhspan, axhline = Axes.errorbar, Axes.axhspan, Axes.axhline

    def curve(self, x, y, error, **style):
        calls["curves"][style["label"]] = (list(x), np.array(y), np.array(error))
        return errorbar(self, x, y, error, **style)

    def band(self, low, high, **style):
        calls["bands"].append((low, high))
        return axhspan(self, low, high, **style)

    def line(self, y, **style):
        calls["lines"][style["label"]] = y
        return axhline(self, y, **style)

    monkeypatch.setattr(Axes, "errorbar", curve)
    monkeypatch.setattr(Axes, "axhspan", band)
    monkeypatch.setattr(Axes, "axhline", line)
    return calls


def test_success_is_drawn_by_calls_with_its_interval(drawn):
    points = [success_interval([True] * n + [False] * (9 - n)) for n in (6, 0, 3)]
    calls = [32.0, 8.0, 16.0]
    points = [point | {"calls": x} for point, x in zip(points, calls, strict=True)]
    not_asked = {name: 0.0 for name in points[0] if name != "calls"}
    png = success_curves({"FlexMDM": [*points, not_asked], "nothing asked": [not_asked]})
    assert_shows_something(png)
    assert list(drawn["curves"]) == ["FlexMDM"]
    x, y, (below, above) = drawn["curves"]["FlexMDM"]
    assert x == [8, 16, 32]
    np.testing.assert_allclose(y, [0, 100 / 3, 200 / 3])
    low, high = ([100 * points[i][f"success_{end}"] for i in (1, 2, 0)] for end in ("low", "high"))
    np.testing.assert_allclose(y - below, low, atol=1e-9)
    np.testing.assert_allclose(y + above, high, atol=1e-9)


def test_what_was_measured_of_texts_is_drawn_by_calls_beside_that_of_text(drawn):
    points = [{"calls": n, "length_w1": 64 / n, "length_w1_error": 0.5} for n in (16.0, 8.0)]
    points.append({"calls": 32.0, "length_w1": None})
    assert_shows_something(calls_curves({"A": points}, {"length_w1": 1.5}))
    [(label, (calls, values, errors))] = drawn["curves"].items()
    assert (label, calls) == ("A", [8, 16, 32])
    np.testing.assert_array_equal(values, [8, 4, np.nan])
    np.testing.assert_array_equal(errors, [[0.5, 0.5, 0]] * 2)
    assert drawn["lines"] == {"text": 1.5}
    # Nothing that all have is one of those figures.
    assert calls_curves({"A": points, "B": [{"calls": 8.0}]}, {}) is None


def test_a_model_without_a_canvas_is_a_band(drawn):
    mdm = {n: success_interval([True] * (n // 16) + [False] * 16) for n in (128, 64, 32)}
    flexmdm = success_interval([True, True, False])
    found = [Found("MDM", way(n), figures) for n, figures in mdm.items()]
    found += [Found("FlexMDM", way(), flexmdm), Found("MDM", way(16, "other"), {})]
    assert_shows_something(canvas_curves(found, [PANEL]))
    assert list(drawn["curves"]) == ["MDM, adaptive, 8 steps"]
    x, y, _ = drawn["curves"]["MDM, adaptive, 8 steps"]
    assert x == [32, 64, 128]
    np.testing.assert_allclose(y, [100 * mdm[n]["success"] for n in x])
    [(low, high)] = drawn["bands"]
    np.testing.assert_allclose(
        [low, high], [100 * flexmdm[f"success_{x}"] for x in ("low", "high")]
    )
    assert drawn["lines"] == {"FlexMDM, adaptive, 8 steps": pytest.approx(200 / 3)}


def test_several_figures_stand_side_by_side_with_what_they_should_be(drawn):
    panels = [Panel("length", "tokens", 1.0, target=7.0), Panel("w1", "tokens", 1.0)]
    figures = {"length": 5.0, "length_error": 0.6, "w1": None}
    assert_shows_something(canvas_curves([Found("MDM", way(8), figures)], panels))
    assert drawn["lines"] == {"data": 7.0}
    [(_, y, error)] = drawn["curves"].values()
    assert y.tolist() == [5]
    np.testing.assert_allclose(error[:, 0], 0.6)
