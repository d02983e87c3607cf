"""What can be said of a picture without eyes."""

import io

import matplotlib.image


def assert_shows_something(png):
    pixels = matplotlib.image.imread(io.BytesIO(png))
    assert pixels.shape[0] > 200
    assert pixels.std() > 0.01
