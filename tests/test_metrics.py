"""What the server tells of itself over `/metrics`, read by Prometheus' own parser."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
import tritonclient.grpc as triton
from models import identity, save, slow, two_inputs
from scraping import (
    HISTOGRAMS,
    OPENMETRICS,
    PROTOBUF,
    TEXT,
    Scrape,
    adds_up,
    families_of,
    fetch,
    metrics_address,
    native_counts,
    scrape,
    wait_for,
)
from serving import run_axon, serving
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from serving import Server

PATIENCE_S: Final = 30.0
GOOD: Final = json.dumps({"inputs": [{"name": "INPUT0", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]})


def post(server: Server, path: str, body: str | bytes = GOOD) -> int:
    """Ask on a connection of its own, and return the status."""
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)) as connection:
        connection.request("POST", path, body)
        response = connection.getresponse()
        response.read()
        return response.status


def ask_grpc(client: triton.InferenceServerClient, model: str, width: int = 3, version: str = "") -> str:
    """Ask, and return the status."""
    value = triton.InferInput("INPUT0", [1, width], "FP32").set_data_from_numpy(np.ones((1, width), np.float32))
    try:
        client.infer(model, [value], model_version=version)
    except InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode.")
    return "OK"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    save(identity("FP32"), tmp_path / "fp32.onnx")
    save(two_inputs(), tmp_path / "two.onnx")
    (tmp_path / "broken.onnx").write_text("not a model")
    with serving(tmp_path, "--log-level", "off") as started:
        yield started


def test_every_request_is_told_by_model_protocol_code_and_reason(server: Server) -> None:
    infer = "/v2/models/fp32/infer"
    asked = [
        *[(infer, GOOD, 200)] * 5,
        ("/v2/models/fp32/versions/1/infer", GOOD, 200),
        ("/v2/models/fp32/generate", json.dumps({"INPUT0": [1, 2, 3]}), 200),
        (infer, "{", 400),
        (infer, json.dumps({"inputs": []}), 400),
        ("/v2/models/fp32/versions/9/infer", GOOD, 404),
        ("/v2/models/none/infer", GOOD, 404),
        ("/v2/models/..%2f/infer", GOOD, 400),
        ("/v2/models/broken/infer", GOOD, 503),
    ]
    for path, body, status in asked:
        assert post(server, path, body) == status, path
    with closing(triton.InferenceServerClient(server.grpc_address)) as client:
        statuses = [ask_grpc(client, "fp32") for _ in range(3)]
        statuses += [ask_grpc(client, "fp32", width=4), ask_grpc(client, "none"), ask_grpc(client, "fp32", version="x")]
    assert statuses == ["OK"] * 3 + ["INVALID_ARGUMENT", "NOT_FOUND", "INVALID_ARGUMENT"]
    told = scrape(server)
    assert adds_up(told)
    assert told.of("axon_requests_in_flight") == 0
    assert told.by("axon_requests_total", "model", "protocol", "code") == {
        ("fp32", "http", "200"): 7,
        ("fp32", "http", "400"): 2,
        ("fp32", "grpc", "OK"): 3,
        ("fp32", "grpc", "INVALID_ARGUMENT"): 1,
        ("broken", "http", "503"): 1,
        ("-", "http", "404"): 2,
        ("-", "http", "400"): 1,
        ("-", "grpc", "NOT_FOUND"): 1,
        ("-", "grpc", "INVALID_ARGUMENT"): 1,
    }
    assert told.by("axon_requests_refused_total", "model", "reason") == {
        ("fp32", "invalid"): 3,
        ("broken", "not_ready"): 1,
        ("-", "unknown_model"): 3,
        ("-", "invalid"): 2,
    }
    for name in HISTOGRAMS:
        assert told.of(f"{name}_count", model="fp32") == 10, name
        assert told.of(f"{name}_count") == 10, name
    assert told.of("axon_batch_rows_sum", model="fp32") == 10
    states = {key for key, count in told.by("axon_model_state", "model", "state").items() if count}
    assert states == {("fp32", "ready"), ("two", "ready"), ("broken", "failed")}
    assert told.by("axon_model_loads_total", "model", "outcome") == {
        ("fp32", "loaded"): 1,
        ("two", "loaded"): 1,
        ("broken", "failed"): 1,
    }
    assert told.of("axon_ready") == 0
    assert told.of("axon_latency_target_seconds", model="fp32") == 0.01
    assert told.of("axon_instances", model="fp32") >= 1
    assert told.of("axon_learned_run_duration_seconds", model="fp32", rows="1") > 0


def test_each_form_is_what_its_parser_reads(server: Server) -> None:
    for _ in range(4):
        assert post(server, "/v2/models/fp32/infer") == 200
    url = metrics_address(server)
    for address in (url, f"http://{server.address}/metrics"):
        content_type, body = fetch(address)
        assert content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert b"axon_requests_received_total{" in body
    open_metrics, text = scrape(server, OPENMETRICS), scrape(server, TEXT)
    assert fetch(url, OPENMETRICS).content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.series() == text.series()
    families = open_metrics.families
    assert (families["axon_requests"].type, families["axon_build"].type) == ("counter", "info")
    assert families["axon_queue_duration_seconds"].unit == "seconds"
    fetched = fetch(url, PROTOBUF)
    assert fetched.content_type.endswith("proto=io.prometheus.client.MetricFamily; encoding=delimited")
    messages = families_of(fetched.body)
    # The parsers call counters otherwise; the process' own may be absent from none.
    assert {name.removesuffix("_total").removesuffix("_info") for name in messages} == set(families)
    for name in HISTOGRAMS:
        (metric,) = (
            metric
            for metric in messages[name].metric
            if {pair.name: pair.value for pair in metric.label} == {"model": "fp32", "version": "1"}
        )
        histogram = metric.histogram
        native = dict(native_counts(histogram))
        assert histogram.zero_count + sum(native.values()) == histogram.sample_count == 4
        assert histogram.bucket[-1].cumulative_count == 4
        assert histogram.positive_span, "without a span it would be read as a classic one alone"
        # The mean lies between the buckets that hold the values.
        base = 2.0**2.0**-histogram.schema
        least, most = base ** (min(native) - 1), base ** max(native)
        mean = histogram.sample_sum / histogram.sample_count
        assert least <= mean <= most or histogram.zero_count


def test_what_is_told_of_the_server_itself(server: Server) -> None:
    told = scrape(server)
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)) as connection:
        connection.request("GET", "/v2/health/live")
        connection.getresponse().read()
        later = scrape(server)
        open_before, open_now = (one.of("axon_connections", port="http") for one in (told, later))
        assert open_now == open_before + 1
    accepted = later.of("axon_connections_accepted_total", port="metrics")
    assert accepted > told.of("axon_connections_accepted_total", port="metrics")
    assert told.of("axon_accept_errors_total") == told.of("axon_connections_refused_total") == 0
    assert told.of("process_resident_memory_bytes") > 1 << 20
    assert told.of("process_threads") > 1
    assert told.of("process_open_fds") > 3
    assert later.of("process_cpu_seconds_total") >= told.of("process_cpu_seconds_total") > 0
    (build,) = (sample.labels for sample in told.samples if sample.name == "axon_build_info")
    assert build["version"]
    (runtime,) = (sample.labels for sample in told.samples if sample.name == "axon_runtime_info")
    assert (runtime["device"], runtime["provider"]) == ("cpu", "CPUExecutionProvider")
    assert runtime["version"].startswith("1.")


def test_the_port_for_metrics_has_nothing_else(server: Server) -> None:
    url = metrics_address(server)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(url.replace("/metrics", "/v2"))
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(url, data=b"x", timeout=PATIENCE_S)  # noqa: S310 - a server of these tests


def test_metrics_that_are_off_are_nowhere(digits: Path) -> None:
    with serving(digits, "--metrics", "off") as server:
        assert "metrics" not in server.printed
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(f"http://{server.address}/metrics")
    ended = run_axon("serve", digits, "--metrics", "maybe")
    assert ended.returncode == 2
    assert "--metrics" in ended.stderr


def test_triton_names_are_told_under_compat_triton(tmp_path: Path, server: Server) -> None:
    assert not any(sample.name.startswith("nv_") for sample in scrape(server).samples)
    save(identity("FP32"), tmp_path / "m" / "1" / "model.onnx")
    with serving(tmp_path / "m" / "1" / "model.onnx", "--name", "m", "--compat", "triton") as started:
        for _ in range(3):
            assert post(started, "/v2/models/m/infer") == 200
        # Triton's own status for what is no JSON.
        assert post(started, "/v2/models/m/infer", "{") == 500
        # The parser of the older text gives every counter a `_total`.
        told = scrape(started, OPENMETRICS)
        assert told.families["nv_inference_request_success"].type == "unknown"
        text = fetch(metrics_address(started)).body.decode()
        assert '\nnv_inference_request_success{model="m",version="1"} 3\n' in text
    labels = {"model": "m", "version": "1"}
    assert told.of("nv_inference_request_success", **labels) == 3
    assert told.by("nv_inference_request_failure", "reason") == {"OTHER": 1}
    assert told.by("axon_requests_total", "code") == {"200": 3, "500": 1}
    assert told.of("nv_inference_count", **labels) == told.of("nv_inference_exec_count", **labels) == 3
    queue_us, queue_s = told.of("nv_inference_queue_duration_us"), told.of("axon_queue_duration_seconds_sum")
    assert queue_us == pytest.approx(queue_s * 1e6, abs=1)
    assert told.of("nv_inference_request_duration_us") >= told.of("nv_inference_compute_infer_duration_us") > 0
    assert told.of("nv_cpu_memory_total_bytes") > told.of("nv_cpu_memory_used_bytes") > 0


def test_a_caller_that_goes_away_counts_as_cancelled(tmp_path: Path) -> None:
    path = save(slow(50.0), tmp_path / "slow.onnx")
    rows = 40
    tensor = {"name": "x", "shape": [rows, 256], "datatype": "FP32", "data": [0] * (rows * 256)}
    body = json.dumps({"inputs": [tensor]})
    with serving(path) as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
        connection.request("POST", "/v2/models/slow/infer", body)
        wait_for(server, "it has come", lambda told: told.of("axon_requests_received_total") == 1)
        connection.close()
        wait_for(server, "nothing is in flight", lambda told: told.of("axon_requests_in_flight") == 0)
        told = scrape(server)
        assert told.by("axon_requests_total", "code") == {"499": 1}
        assert told.by("axon_requests_refused_total", "reason") == {"cancelled": 1}


def test_a_scrape_of_two_hundred_models_has_them_all(tmp_path: Path) -> None:
    content = identity("FP32")
    for number in range(200):
        save(content, tmp_path / f"m{number}.onnx")
    with serving(tmp_path, "--load-check", "off", "--instances", "1", "--log-level", "off") as server:
        told: Scrape = scrape(server)
        assert len(told.by("axon_model_state", "model", "state")) == 200
        assert told.of("axon_model_loads_total", outcome="loaded") == 200
        assert told.of("axon_ready") == 1


def test_models_that_come_and_go_tell_what_they_take(tmp_path: Path) -> None:
    for name in ("one", "other"):
        save(identity("FP32"), tmp_path / f"{name}.onnx")
    with serving(tmp_path, "--model-control-mode", "auto", "--log-level", "off") as server:
        assert post(server, "/v2/models/one/infer") == 200
        told = scrape(server)
        budget, charged = told.of("axon_memory_budget_bytes"), told.of("axon_memory_charged_bytes")
        assert budget > charged >= told.of("axon_model_memory_bytes", model="one", device="cpu") > 0
        assert told.by("axon_model_memory_bytes", "model").keys() == {"one"}
        assert told.of("axon_evictions_total", cause="room") == 0
        assert adds_up(told)
