"""Constant load on a served digits model, from four clients, and what became of every request."""

from e2e.load.load import CLIENTS, RATE, Load, load
from e2e.load.requests import Request

__all__ = ["CLIENTS", "RATE", "Load", "Request", "load"]
