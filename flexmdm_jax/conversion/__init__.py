"""Weights of other libraries: in, out, and the folder that a frozen base is kept in."""
