"""The page of a server: a text to be written, watched and rewritten in places."""

from flexmdm_jax.serving.playground.page import page

__all__ = ["page"]
