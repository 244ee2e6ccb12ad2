"""python -m e2e.load.triton_http ASKED OUTPUT: NVIDIA's own client, which never sends a POST twice.

Begins requests at a constant rate, and writes a line of JSON for each that has ended.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import gevent
import numpy as np
from tritonclient import http


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    timeout = asked["timeout_seconds"]
    client = http.InferenceServerClient(
        f"{asked['host']}:8000",
        concurrency=asked["rate"] * timeout,
        connection_timeout=timeout,
        network_timeout=timeout,
    )
    began = time.monotonic()
    with Path(sys.argv[2]).open("w", buffering=1) as told:
        for number in itertools.count():
            gevent.sleep(max(began + number / asked["rate"] - time.monotonic(), 0))
            gevent.spawn(_ask, client, asked, number, told)


def _ask(client: Any, asked: dict[str, Any], number: int, told: TextIO) -> None:
    at, version, failure = time.time(), "", ""
    image = http.InferInput("image", asked["shape"], "FP32")
    image.set_data_from_numpy(np.array(asked["data"], np.float32).reshape(asked["shape"]))
    try:
        version = client.infer(asked["model"], [image]).get_response()["model_version"]
    except Exception as error:  # noqa: BLE001 - whatever it raises, the request has failed
        failure = f"{type(error).__name__}: {error}"
    line = {"client": "tritonclient", "number": number, "at": at, "version": version}
    line |= {"ms": round((time.time() - at) * 1000, 1), "error": failure}
    told.write(f"{json.dumps(line)}\n")


if __name__ == "__main__":
    main()
