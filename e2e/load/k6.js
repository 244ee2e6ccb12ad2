// Three clients of one service. Each begins its requests at a constant rate, whatever becomes of
// those before, and writes a line of JSON for each that has ended.

import exec from "k6/execution";
import http from "k6/http";
import grpc from "k6/net/grpc";
import { setInterval } from "k6/timers";

const asked = JSON.parse(open(__ENV.ASKED));
const timeout = `${asked.timeout_seconds}s`;
const tensor = { name: "image", datatype: "FP32", shape: asked.shape };
const url = `http://${asked.host}:8000/v2/models/${asked.model}/infer`;
const body = JSON.stringify({ inputs: [{ ...tensor, data: asked.data }] });
const call = "inference.GRPCInferenceService/ModelInfer";
const message = {
  modelName: asked.model,
  inputs: [{ ...tensor, contents: { fp32Contents: asked.data } }],
};

const channel = new grpc.Client();
channel.loadProtoset(asked.protoset);

const arrivals = (client) => ({
  executor: "constant-arrival-rate",
  exec: client,
  rate: asked.rate,
  duration: "1h",
  preAllocatedVUs: 8,
  // A client that waits must not keep the next request from being sent.
  maxVUs: asked.rate * asked.timeout_seconds,
});

export const options = {
  scenarios: {
    connection_a_request: arrivals("connection_a_request"),
    keep_alive: arrivals("keep_alive"),
    grpc_channel: {
      executor: "per-vu-iterations",
      exec: "grpc_channel",
      iterations: 1,
      maxDuration: "1h",
    },
  },
  systemTags: [],
};

function tell(client, number, at, version, error) {
  const ms = Date.now() - at;
  console.log(JSON.stringify({ client, number, at: at / 1000, ms, version, error }));
}

function post(headers) {
  const [number, at] = [exec.scenario.iterationInTest, Date.now()];
  const params = { timeout, headers: { "Content-Type": "application/json", ...headers } };
  const answer = http.post(url, body, params);
  const fine = answer.status === 200;
  const version = fine ? answer.json("model_version") : "";
  const error = fine ? "" : `${answer.status} ${answer.error} ${answer.body}`;
  tell(exec.scenario.name, number, at, version, error);
}

export function connection_a_request() {
  post({ Connection: "close" });
}

export function keep_alive() {
  post({});
}

export function grpc_channel() {
  channel.connect(`${asked.host}:8001`, { plaintext: true });
  const began = Date.now();
  let next = 0;
  // The interval alone would be late a little each time.
  setInterval(() => {
    for (const due = ((Date.now() - began) / 1000) * asked.rate; next < due; next++) invoke(next);
  }, 1000 / asked.rate);
}

function invoke(number) {
  const at = Date.now();
  const say = (version, error) => tell("grpc_channel", number, at, version, error);
  channel.asyncInvoke(call, message, { timeout }).then(
    (answer) =>
      answer.status === grpc.StatusOK
        ? say(answer.message.modelVersion, "")
        : say("", JSON.stringify(answer.error)),
    (error) => say("", `${error}`),
  );
}
