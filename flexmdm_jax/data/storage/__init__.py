"""Prepared datasets on disk: written, opened, mixed and looked at."""
