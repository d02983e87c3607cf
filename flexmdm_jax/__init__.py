"""FlexMDM in JAX: any-order masked diffusion that learns length (insert masks, unmask them)."""

__version__ = "0.1.0"
