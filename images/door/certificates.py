"""Whether the mounted certificates can be used, told before Envoy would only log it."""

from __future__ import annotations

import ssl
from pathlib import Path

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "tls.crt", "tls.key"


def problem(folder: Path) -> str:
    """Return a sentence on what keeps these certificates from being used; empty if nothing does."""
    missing = [name for name in (AUTHORITY, CERTIFICATE, KEY) if not (folder / name).is_file()]
    if missing:
        return (
            f"There is no {missing[0]} in {folder}: this namespace has no Secret lepton-door, or "
            "an incomplete one. Add the namespace to the chart's value door.namespaces."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(folder / AUTHORITY)
    except ssl.SSLError as error:
        return _unusable(f"{AUTHORITY} is no certificate in PEM ({_reason(error)})")
    try:
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        return _unusable(f"{CERTIFICATE} and {KEY} are no pair in PEM ({_reason(error)})")
    return ""


def _unusable(why: str) -> str:
    return (
        f"The Secret lepton-door of this namespace cannot be used: {why}. Delete it and upgrade "
        "the release, or have cert-manager issue it anew."
    )


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


def _no_password() -> str:
    """OpenSSL would ask the terminal for the password of an encrypted key."""
    raise ValueError("the key is encrypted")
