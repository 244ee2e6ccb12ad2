"""Constant load on a served digits model, from four clients, and what became of every request."""

from e2e.load.load import CLIENTS, RATE, Load, load, question, start_k6
from e2e.load.requests import Heard, Request

__all__ = ["CLIENTS", "RATE", "Heard", "Load", "Request", "load", "question", "start_k6"]
