"""The error that a person sees when an image cannot be built."""

from __future__ import annotations


class ImageError(Exception):
    """Its message is a sentence: what is wrong, why, and what to do next."""
