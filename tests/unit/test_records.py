from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_operator import records
from tests.builders import DIGEST, a_record


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("", id="nothing was written"),
        pytest.param("Traceback (most recent call last):", id="a log line instead of a record"),
        pytest.param('{"outcome": "Failed", "reason": "UserEr', id="a record that was cut"),
        pytest.param("3", id="a number"),
        pytest.param("[]", id="a list"),
        pytest.param("[" * 4000, id="brackets without end"),
        pytest.param('{"outcome": "Perfect"}', id="an outcome that does not exist"),
        pytest.param(a_record("Failed", reason="NodeLost"), id="a reason that does not exist"),
        pytest.param(a_record("Failed", rank=True), id="a rank that is no number"),
        pytest.param(a_record("Failed", rank=-1), id="a rank below 0"),
        pytest.param(a_record(model={"version": 0, "digest": DIGEST}), id="version 0"),
        pytest.param(a_record(model={"version": 1, "digest": "md5:1"}), id="a digest of no kind"),
        pytest.param(a_record(versions=[{}] * 6), id="more versions than are ever sent"),
    ],
)
def test_a_message_that_is_no_record_is_absent(message: str) -> None:
    assert records.parse(message) is None


def test_a_whole_record_is_read() -> None:
    evaluation = {"dataset": "heldout", "datasetDigest": DIGEST, "samples": 200}
    version = {"version": 2, "digest": DIGEST, "lineage": {"trainingJob": "a", "uid": "u"}}
    message = a_record(
        reason="Succeeded",
        metrics={"accuracy": 0.97},
        model={"version": 1, "digest": DIGEST, "sizeBytes": 905321},
        versions=[version | {"evaluation": evaluation}],
        more=True,
        something="of a later version",
    )
    record = records.parse(message)
    assert record is not None
    assert record.metrics == {"accuracy": "0.97"}
    assert record.model == records.ModelRecord(version=1, digest=DIGEST, size_bytes=905321)
    assert record.more
    assert record.versions[0].lineage is not None
    assert record.versions[0].lineage.uid == "u"
    assert record.versions[0].evaluation is not None
    assert record.versions[0].evaluation.samples == 200


def test_metrics_that_have_no_decimal_or_no_name_are_left_out() -> None:
    message = (
        '{"outcome": "Succeeded", "metrics": {"a": NaN, "b": 1e999, "c d": 1, "e": true, "f": 2}}'
    )
    record = records.parse(message)
    assert record is not None
    assert record.metrics == {"f": "2"}


def test_control_characters_and_broken_ones_do_not_reach_a_status() -> None:
    record = records.parse('{"outcome": "Failed", "message": "a\\u0000b\\nc\\ud800"}')
    assert record is not None
    assert record.message == "a b c?"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.97, "0.97"),
        (1e-7, "0.0000001"),
        (-3.0, "-3"),
        (12, "12"),
        (1e300, None),
        (10**400, None),
        (math.inf, None),
    ],
)
def test_numbers_become_decimal_text(value: float, text: str | None) -> None:
    assert records.decimal(value) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_json_whatever_breaks_the_reader(value: object) -> None:
    fields = value if isinstance(value, dict) else {"message": value, "metrics": value}
    record = records.parse(json.dumps({**fields, "outcome": "Failed"}))
    assert record is None or json.dumps(record.wire()).encode()
