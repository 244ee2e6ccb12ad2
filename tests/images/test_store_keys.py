"""The keys of the embedded store, as the chart repeats them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from images.store.start import Keys, StoreError, bucket, namespaces_of, root_secret

ROOT_SECRET = "0123456789abcdef"


def test_the_keys_follow_the_documented_formula() -> None:
    keys = Keys.of(ROOT_SECRET, "team-a")
    assert keys.access == sha256(b"0123456789abcdef/team-a/access").hexdigest()[:20]
    assert keys.secret == sha256(b"0123456789abcdef/team-a/secret").hexdigest()[:40]


def test_the_keys_never_change_between_versions() -> None:
    """A changed formula would lock every namespace out of its bucket at an upgrade."""
    assert Keys.of(ROOT_SECRET, "team-a") == Keys(
        access="16b80584a4ed399bc159", secret="d92a02cc9ff558a57722e9aeca209bd3234d4474"
    )


def test_namespaces_and_the_administrator_share_no_key() -> None:
    keys = [Keys.of(ROOT_SECRET, namespace) for namespace in ("", "a", "a-a", "access")]
    assert len({part for key in keys for part in (key.access, key.secret)}) == 2 * len(keys)


def test_a_bucket_is_named_after_its_namespace() -> None:
    assert bucket("team-a") == "lepton-team-a"


def test_a_namespace_too_long_for_a_bucket_is_refused() -> None:
    assert len(bucket("n" * 56)) == 63
    with pytest.raises(StoreError, match="57 characters, and 56 are the most"):
        bucket("n" * 57)


def test_the_list_of_namespaces_may_have_comments_and_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "namespaces"
    file.write_text("# made by the chart\nteam-a\n\n  team-b\n")
    assert namespaces_of(file) == ["team-a", "team-b"]


def test_a_short_root_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "root-secret"
    file.write_text("short")
    with pytest.raises(StoreError, match="has 5 characters"):
        root_secret(file)


def test_a_root_secret_is_taken_as_it_is(tmp_path: Path) -> None:
    """The chart hashes the same characters; to strip a newline here would part the two."""
    file = tmp_path / "root-secret"
    file.write_text(ROOT_SECRET + "\n")
    assert root_secret(file) == ROOT_SECRET + "\n"
