from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from lepton_ai.record import (
    MESSAGE_LIMIT_BYTES,
    Evaluation,
    ModelReference,
    Reason,
    Record,
    VersionSummary,
)
from lepton_launcher.records import to_line
from lepton_operator import records

DIGEST = "sha256:" + "a" * 64

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=3000)
metrics = st.dictionaries(st.text(st.characters(categories=["Ll"]), max_size=60), st.floats())
evaluations = st.fixed_dictionaries(
    {
        "version": st.integers(1, 100),
        "dataset": st.just("heldout"),
        "datasetDigest": st.just(DIGEST),
        "samples": st.integers(0, 10**6),
        "metrics": metrics,
    }
).map(Evaluation.model_validate)
versions = st.fixed_dictionaries(
    {
        "version": st.integers(1, 100),
        "digest": st.just(DIGEST),
        "sizeBytes": st.integers(0, 2**40),
        "metrics": metrics,
        "lineage": st.just({"uri": "s3://bucket/" + "x" * 500}),
        "evaluation": st.none() | evaluations,
    }
).map(VersionSummary.model_validate)
any_record = st.builds(
    Record,
    outcome=st.sampled_from(["Succeeded", "Failed"]),
    reason=st.sampled_from(Reason),
    message=st.none() | texts,
    step=st.none() | st.integers(0, 10**9),
    metrics=st.none() | metrics,
    versions=st.none() | st.lists(versions, max_size=5).map(tuple),
    evaluation=st.none() | evaluations,
)


@given(any_record)
def test_any_record_is_one_line_that_fits_and_that_the_operator_reads(record: Record) -> None:
    line = record.line()
    assert len(line) <= MESSAGE_LIMIT_BYTES
    assert b"\n" not in line
    read = records.parse(line.decode())
    assert read is not None
    assert (read.outcome, read.reason) == (record.outcome, record.reason)


def test_texts_are_cut_before_facts() -> None:
    model = ModelReference(version=3, digest=DIGEST, size_bytes=5)
    record = Record.succeeded("ü" * 5000, model=model, metrics={"accuracy": 0.97})
    written = json.loads(record.line())
    assert written["message"].startswith("üüü")
    assert written["message"].endswith("…")
    assert written["model"] == {"version": 3, "digest": DIGEST, "sizeBytes": 5}
    assert written["metrics"] == {"accuracy": 0.97}


def test_versions_that_do_not_fit_are_announced() -> None:
    lineage = {"uri": "s3://bucket/" + "x" * 700}
    five = tuple(
        VersionSummary(version=n, digest=DIGEST, size_bytes=1, lineage=lineage)
        for n in (9, 8, 7, 6, 5)
    )
    written = json.loads(Record.succeeded("five", versions=five, more=False).line())
    assert [version["version"] for version in written["versions"]] == [9, 8]
    assert written["more"] is True


def test_what_the_launcher_writes_is_read_and_what_is_no_record_is_none() -> None:
    written = {"outcome": "Failed", "reason": "UserError", "rank": 3, "exitCode": 137, "signal": 9}
    record = Record.parse(to_line(written))
    assert record is not None
    assert json.loads(record.line()) == written
    for text in ("", "{}", "[]", "null", '{"outcome": "Maybe"}', "\x00" * 100):
        assert Record.parse(text) is None


def test_numbers_that_json_has_no_word_for_are_left_out() -> None:
    record = Record.succeeded("done", metrics={"loss": float("nan"), "accuracy": 0.5})
    assert json.loads(record.line())["metrics"] == {"accuracy": 0.5}
