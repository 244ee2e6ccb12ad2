"""What Envoy counts, and under which labels: at most 60 series a service.

Envoy keeps some 400 numbers a service, most of which nobody reads. What is not on the list here is
never made: at 1,000 services that is 95 MB less memory, and a scrape of 2.5 MB in place of 45.

Names that the configuration of a service must have for this (the operator's `door` package):

- `stat_prefix` of the HTTP connection manager: `service/<service>`
- clusters: `<service>/<protocol>` (http, grpc)
- counters of its access logger: `service.requests`, `service.over_target`, with tags of their own
  (service, revision): labels of the same names
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from typing import Any

LATENCY_BUCKETS_MILLISECONDS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000)
"""Envoy fixes the buckets at its start, so a service's target has a counter of its own."""

_OF_A_LISTENER = (
    r"http\.service/[^.]+\."
    r"downstream_(rq_total|rq_[1-5]xx|rq_active|rq_time|rq_timeout|rq_too_large|cx_active)"
)
_OF_A_CLUSTER = (
    r"cluster\.[^./]+/[^.]+\."
    r"(upstream_rq_(active|pending_active|pending_overflow|retry|timeout)|upstream_cx_connect_fail"
    r"|membership_healthy|outlier_detection\.ejections_active)"
)
_OF_AN_ACCESS_LOGGER = r"service\.(requests|over_target)\..+"
_OF_THE_DOOR = (
    r"server\.(memory_allocated|memory_heap_size|days_until_first_cert_expiring|uptime)"
    r"|control_plane\.connected_state"
    r"|listener_manager\.(total_listeners_active|listener_(added|removed|modified)"
    r"|lds\.update_rejected)"
    r"|cluster_manager\.(active_clusters|warming_clusters|cluster_(added|removed)"
    r"|cds\.update_rejected)"
    r"|overload\..+\.(active|scale_percent|pressure)"
)

CONFIGURATION: dict[str, Any] = {
    "use_all_default_tags": False,
    # The first group of each is taken out of the name, the second is the label's value.
    "stats_tags": [
        {"tag_name": "service", "regex": r"^http\.(service/([^.]+)\.)"},
        {"tag_name": "service", "regex": r"^cluster\.(([^./]+)/)"},
        {"tag_name": "protocol", "regex": r"^cluster\.[^./]+/(([^.]+)\.)"},
        {"tag_name": "class", "regex": r"^http\..+_rq_(([1-5]))xx$"},
    ],
    "stats_matcher": {
        "inclusion_list": {
            "patterns": [
                {"safe_regex": {"regex": regex}}
                for regex in (_OF_A_LISTENER, _OF_A_CLUSTER, _OF_AN_ACCESS_LOGGER, _OF_THE_DOOR)
            ]
        }
    },
    "histogram_bucket_settings": [
        {
            "match": {"suffix": "downstream_rq_time"},
            "buckets": list(LATENCY_BUCKETS_MILLISECONDS),
        }
    ],
}


SHOWN_REVISIONS = 4
"""Of a service: two in a rollout, one that it goes back to, and "" for what no pod had."""

_OF_A_REVISION = re.compile(
    rb'^envoy_service_(?P<what>\w+)\{service="(?P<service>[^"]*)",revision="(?P<revision>[^"]*)"\}'
    rb" (?P<value>\d+)\n",
    re.MULTILINE,
)


_Known = dict[bytes, dict[bytes, tuple[bytes, int]]]
"""By service and revision: its requests, and the scrape that first told of so many."""


class Revisions:
    """Shows of each service the revisions that had requests last: Envoy forgets none of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scrapes = 0
        self._known: _Known = {}

    def recent(self, text: bytes) -> bytes:
        """Return what Envoy tells without the counters of older revisions."""
        with self._lock:
            self._scrapes += 1
            self._known = known = _noted(self._known, text, self._scrapes)
        old = {(service, each) for service in known for each in _old(known[service])}
        if not old:
            return text
        return _OF_A_REVISION.sub(
            lambda line: b"" if (line["service"], line["revision"]) in old else line[0], text
        )


def _noted(before: _Known, text: bytes, scrape: int) -> _Known:
    found: _Known = defaultdict(dict)
    for line in _OF_A_REVISION.finditer(text):
        if line["what"] == b"requests":
            service, revision, value = line["service"], line["revision"], line["value"]
            known = before.get(service, {}).get(revision, (b"", 0))
            found[service][revision] = known if known[0] == value else (value, scrape)
    return found


def _old(revisions: dict[bytes, tuple[bytes, int]]) -> list[bytes]:
    """Return the revisions that are too many, those first whose requests are longest ago."""
    return sorted(revisions, key=lambda each: revisions[each][1])[:-SHOWN_REVISIONS]
