//! The programs that the platform runs, one sub-command of `rul` each.
//!
//! # `rul serve`: predictions over HTTP
//!
//! Answers from a model directory (`--model-dir`) or, while there is none, with a constant
//! (`--stub-rul`, 125) and `"is_stub": true`. Port 8000, HTTP/1.1, JSON.
//!
//! **Units.** A window is 30 rows (cycles, oldest first) of 16 numbers (the features, in the model's
//! order and scaled as the model expects); a loaded model may say otherwise, `GET /v1/model` tells.
//! Numbers are taken as single precision. A prediction is the remaining useful life in cycles.
//!
//! ## The seed's paths
//!
//! | path | answer |
//! |---|---|
//! | `GET /` | `service`, `model_name`, `model_stage`, `model_version`, `is_stub`, `mlflow_tracking_uri` (without credentials) |
//! | `GET /healthz` | 200 `{"status":"ok"}` as long as the process answers |
//! | `GET /readyz` | 200 `{"status":"ready","is_stub":bool}`; 503 without model and stub, and from SIGTERM on |
//! | `GET /metrics` | Prometheus text 0.0.4 |
//! | `POST /predict` | `{"rul":87.5,"model_version":"7","is_stub":false}` |
//!
//! The body of `/predict` has exactly one of
//! - `sequence`: one window, a list of rows;
//! - `features`: one row, taken as a window of 30 equal rows (for smoke tests);
//! - `instances`: a list of windows; answered by `{"predictions":[..],"model_version":..,"is_stub":..}`.
//!
//! `null` counts as absent, other keys are ignored. Every prediction carries the header
//! `x-model-version`.
//!
//! ## Inference protocols
//!
//! | path | answer |
//! |---|---|
//! | `GET /v1/models`, `/v1/models/{name}` | KServe V1: names, readiness |
//! | `POST /v1/models/{name}:predict` | `instances` as above |
//! | `GET /v2`, `/v2/health/live`, `/v2/health/ready` | Open Inference Protocol V2 |
//! | `GET /v2/models/{name}[/versions/{v}]`, `../ready` | tensors, readiness |
//! | `POST /v2/models/{name}[/versions/{v}]/infer` | tensor `input`, shape `[n, 30, 16]`, FP32, FP64, INT32 or INT64, data flat or nested; gives tensor `output`, FP32, shape `[n]` |
//!
//! ## For operators
//!
//! | path | answer |
//! |---|---|
//! | `GET /v1/model` | what is served: version, hashes, shape, golden check, why newer content was refused |
//! | `GET /v1/recent?since=SEQ&limit=N` | last predictions, each with the newest row of its window; `next` is the following `since`, `missed` counts what was overwritten unread |
//! | `POST /-/reload` | looks at the model directory now; 200 `loaded` or `unchanged`, 409 with the reason when the old one was kept |
//!
//! The last two take `authorization: Bearer TOKEN` (`RUL_TOKEN` or `--token-file`); without a
//! configured token they are switched off (403) and nothing is kept.
//!
//! ## Refusals
//!
//! `{"detail": reason}`, on the protocol paths `{"error": reason}`. The protocols' V2 asks for 400
//! where `/predict` says 422.
//!
//! | status | when |
//! |---|---|
//! | 400 | not JSON; none or several of the three fields |
//! | 401, 403 | token missing or wrong; switched off |
//! | 404, 405 | no such path, model or version; wrong method |
//! | 408 | the body did not arrive within `--request-timeout` |
//! | 413 | body above `--body-limit` (64 KiB; `--batch-body-limit`, 4 MiB, on the protocol paths) |
//! | 415 | not `application/json`, compressed, or binary tensors |
//! | 422 | wrong type, wrong length (`sequence[3]: 15 numbers, expected 16`), a number that is not finite, too many windows |
//! | 503 | more than `--concurrency` at once (`retry-after: 1`); no model (`retry-after: 5`) |
//!
//! ## The model directory
//!
//! `model.json` and `model.onnx` (see the crate `model`), and optionally
//! - `golden.json`: `{"windows":[window..],"expected":[cycles..],"tolerance":0.01}`: the model must
//!   give these answers before it is served;
//! - `baseline.json`: `histogram.buckets` are the edges of this version's prediction histogram.
//!
//! Write a new version by renaming files into place, `model.json` last, or by switching a link.
//! The content hash of the four files is polled (`--reload-interval`, 5 s, spread by 10 %). New
//! content is served only after every check; otherwise the old one stays, the reason is logged,
//! counted (`rul_model_reload_total{result}`) and shown by `/v1/model`. A running service does not
//! change the shape of its windows. A request is answered by the model that was current when its
//! body had arrived.
//!
//! ## Metrics
//!
//! `rul_requests_total{status="ok"|"error"}`, `rul_request_latency_seconds` (successes) and
//! `rul_prediction_value` (edges 0 to 500) as in the seed; `rul_prediction{model,model_version}`
//! starts at zero with every version; `rul_refused_total{reason}`, `rul_request_duration_seconds`,
//! `rul_stub`, `rul_ready`, `rul_inflight`, `rul_concurrency_limit`, `rul_model_info`,
//! `rul_model_loaded_timestamp_seconds`, `rul_model_reload_total{result}`,
//! `rul_model_reload_duration_seconds`, `rul_model_last_check_timestamp_seconds`, `rul_build_info`.
//!
//! ## The end
//!
//! SIGTERM: `/readyz` is 503 at once and connections are closed after their answer; new ones are
//! still taken for `--drain-delay` (3 s), then the port closes and requests under way have
//! `--grace` (20 s). SIGINT: the same without the delay. A second signal ends it at once. Exit
//! status 0.

pub mod artifact;
pub mod baseline;
pub mod data;
pub mod demo;
pub mod drift;
pub mod http;
pub mod promote;
pub mod registry;
pub mod serve;
pub mod simulate;
mod token;
pub mod train;
pub mod trigger;
