"""FlexMDM in JAX: any-order masked diffusion that learns length (insert masks, unmask them)."""

__version__ = "0.2.0"


def __getattr__(name: str):
    """Returns load() and Request, which are imported when they are asked for: JAX takes a while."""
    if name == "load":
        from flexmdm_jax.model import load

        return load
    if name == "Request":
        from flexmdm_jax.generation.requests import Request

        return Request
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
