// One service, asked at rates that change by steps, whatever becomes of the requests before. Writes
// a line of JSON for each that has ended.

import exec from "k6/execution";
import http from "k6/http";
import { sleep } from "k6";

const asked = JSON.parse(open(__ENV.ASKED));
const tensor = { name: "image", datatype: "FP32", shape: asked.shape };
const url = `http://${asked.host}:8000/v2/models/${asked.model}/infer`;
const body = JSON.stringify({ inputs: [{ ...tensor, data: asked.data }] });
const params = {
  timeout: `${asked.timeout_seconds}s`,
  headers: { "Content-Type": "application/json" },
};
const most = Math.max(...asked.phases.map((phase) => phase.rate));

export const options = {
  scenarios: {
    load: {
      executor: "ramping-arrival-rate",
      startRate: asked.phases[0].rate,
      timeUnit: "1s",
      // A stage of no length is a step.
      stages: asked.phases.flatMap((phase) => [
        { target: phase.rate, duration: "0s" },
        { target: phase.rate, duration: `${phase.seconds}s` },
      ]),
      // A client that waits must not keep the next request from being sent, and to make another one
      // takes k6 so long that it would.
      preAllocatedVUs: most * (asked.timeout_seconds + asked.spread_seconds),
    },
  },
  systemTags: [],
};

export default function () {
  const number = exec.scenario.iterationInTest;
  // k6 begins its iterations at equal distances: a little later by lot, they are nearly a Poisson
  // process.
  sleep(Math.random() * asked.spread_seconds);
  const at = Date.now();
  const answer = http.post(url, body, params);
  const ms = Date.now() - at;
  const error = answer.status === 200 ? "" : `${answer.status} ${answer.error} ${answer.body}`;
  const began = exec.scenario.startTime / 1000;
  console.log(JSON.stringify({ number, began, at: at / 1000, ms, error }));
}
