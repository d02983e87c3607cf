"""Evaluation: likelihood bounds, length distributions, and reports."""
