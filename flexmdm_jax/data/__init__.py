"""Corpora, tokenizers, records on disk, and the input pipeline, a room each."""
