"""What ends the door before it begins, or keeps it waiting."""

from __future__ import annotations


class DoorError(Exception):
    """Its message is a sentence: what is wrong, why, and what to do next."""
