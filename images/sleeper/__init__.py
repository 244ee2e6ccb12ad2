"""Triton whose models take their time and no CPU."""

from __future__ import annotations

SERVICE_SECONDS = 0.1
"""As in `model.py`, which stands alone in the image."""
