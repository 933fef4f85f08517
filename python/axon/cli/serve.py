"""`axon serve`: models over HTTP and gRPC."""

from __future__ import annotations

import ipaddress
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from axon import _axon
from axon.cli.model_cache import add_cache_options, cache_settings
from axon.cli.options import add_model_options, model_config
from axon.cli.parser import bounded, size, size_or_none
from axon.errors import InvalidRequest

if TYPE_CHECKING:
    import argparse

    from axon.cli.parser import Commands

__all__ = ["add_to"]

_LARGEST_PORT = 65535
_DAY_S = 86_400


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        help="serve a model file or a folder of models over HTTP and gRPC",
        description="Serve over the Open Inference Protocol until Ctrl-C or SIGTERM; then answer what has come.",
    )
    parser.add_argument("path", metavar="PATH", help="a model file, or a folder of name.onnx and name/1/model.onnx")
    parser.add_argument("--host", default="127.0.0.1", help="IP address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--http-port",
        type=bounded(int, "an integer", 0, _LARGEST_PORT),
        default=8000,
        metavar="PORT",
        help="port for HTTP; 0 takes a free one (default: 8000)",
    )
    parser.add_argument(
        "--grpc-port",
        type=bounded(int, "an integer", 0, _LARGEST_PORT),
        default=8001,
        metavar="PORT",
        help="port for gRPC; 0 takes a free one (default: 8001)",
    )
    parser.add_argument("--no-grpc", action="store_true", help="serve no gRPC")
    _add_metrics(parser)
    _add_tls(parser)
    parser.add_argument(
        "--max-request-bytes",
        type=bounded(int, "an integer", 1 << 10, (1 << 32) - 1),
        default=64 << 20,
        metavar="BYTES",
        help="most bytes of a request, as sent and decoded (default: 67108864)",
    )
    parser.add_argument(
        "--allow-client-shm",
        action="store_true",
        help="let clients on this host pass tensors in POSIX shared memory",
    )
    parser.add_argument(
        "--compat",
        choices=["native", "triton"],
        default="native",
        help="whose names, codes and texts to answer with where they differ (default: native)",
    )
    parser.add_argument(
        "--model-control-mode",
        choices=["none", "explicit", "poll", "auto"],
        default="none",
        help="none: all models are loaded at start and stay; explicit: on request; poll: as the folder changes; auto: "
        "by the first request for each, until others are worth more (default: none)",
    )
    parser.add_argument(
        "--repository-poll-secs",
        type=bounded(int, "an integer", 0, _DAY_S),
        default=15,
        metavar="SECONDS",
        help="time between two looks in mode poll; 0 leaves it to the system to tell of changes (default: 15)",
    )
    parser.add_argument(
        "--memory-budget",
        type=size,
        metavar="SIZE",
        help="bytes that loaded models may take together in mode auto, such as 8GiB or 500MB (default: what the host "
        "or the cgroup has, less a tenth, or 256 MiB where that is more)",
    )
    parser.add_argument(
        "--eviction-policy",
        choices=["value", "lru"],
        default="value",
        help="which models leave first in mode auto: value, those whose bytes save the least time of loading; lru, "
        "those that were used longest ago, to compare with (default: value)",
    )
    parser.add_argument(
        "--response-cache-size",
        type=size_or_none,
        default=64 << 20,
        metavar="SIZE",
        help="bytes of answers that are kept for the same questions, of all models whose configuration asks for it, "
        "such as 64MiB; 0 keeps none (default: 64MiB)",
    )
    _add_load_check(parser)
    add_cache_options(parser, may_be_off=True)
    parser.add_argument(
        "--quick-load",
        action="store_true",
        help="have an imported model answer before its weights are packed, within milliseconds of its load, until they "
        "are; those answers may differ in their last bits from the later ones",
    )
    parser.add_argument(
        "--load-model",
        action="append",
        default=[],
        metavar="NAME",
        help="a model to load at start in mode explicit; may come several times; * is all",
    )
    parser.add_argument(
        "--log-level",
        choices=["off", "error", "warn", "info", "debug", "trace"],
        default="warn",
        help="least urgent messages on standard error (default: warn)",
    )
    parser.add_argument(
        "--log-format",
        choices=["text", "json"],
        default="text",
        help="how messages are written: a line of text or a JSON object each (default: text)",
    )
    parser.add_argument(
        "--access-log",
        type=_access_log,
        default="off",
        metavar="off|errors|RATIO",
        help="which requests have a line in the log, whatever the level: none, those that are refused or fail, or "
        "these and a share of the others, 0 to 1 (default: off)",
    )
    _add_tracing(parser)
    add_model_options(parser)
    parser.set_defaults(run=_run)


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics-port",
        type=bounded(int, "an integer", 0, _LARGEST_PORT),
        default=8002,
        metavar="PORT",
        help="port for metrics; 0 takes a free one (default: 8002)",
    )
    parser.add_argument(
        "--metrics",
        choices=["on", "off"],
        default="on",
        help="on: requests, runs and loads are counted, and told at /metrics on this port and the one for HTTP; off: "
        "neither (default: on)",
    )


def _add_tls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tls-cert",
        metavar="FILE",
        help="speak TLS on every port with this certificate: a PEM file of the server's own, then those that lead from "
        "it to one that clients trust; it is read again when it changes",
    )
    parser.add_argument("--tls-key", metavar="FILE", help="the private key of the certificate, a PEM file")
    parser.add_argument(
        "--tls-client-ca",
        metavar="FILE",
        help="serve only clients with a certificate that one of this PEM file has signed, and that no list of revoked "
        "ones in it names",
    )


def _add_load_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--load-check",
        choices=["always", "first", "off"],
        default="first",
        help="which models are loaded for trial in a process of their own; first: those that have not survived it on "
        "this machine yet (default: first)",
    )
    parser.add_argument(
        "--load-check-secs",
        type=bounded(int, "an integer", 1, _DAY_S),
        default=60,
        metavar="SECONDS",
        help="time that a trial may take; large models are given more (default: 60)",
    )
    parser.add_argument(
        "--load-check-bytes",
        type=bounded(int, "an integer", 1, 2**63 - 1),
        metavar="BYTES",
        help="address space that a trial may take (default: chosen by the model's size)",
    )


def _add_tracing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--otlp-endpoint",
        metavar="URL",
        help="OpenTelemetry collector that traces are sent to, such as http://127.0.0.1:4318 "
        "(default: what OTEL_EXPORTER_OTLP_ENDPOINT says, else none)",
    )
    parser.add_argument(
        "--otlp-protocol",
        choices=["http/protobuf", "grpc"],
        help="how the collector is spoken to (default: what OTEL_EXPORTER_OTLP_PROTOCOL says, else http/protobuf)",
    )
    parser.add_argument(
        "--trace-ratio",
        type=bounded(float, "a number", 0, 1),
        default=1.0,
        metavar="RATIO",
        help="share of requests that are traced whose callers do not say, 0 to 1 (default: 1)",
    )
    parser.add_argument(
        "--trace-slow-ms",
        type=bounded(int, "an integer", 1, _DAY_S * 1000),
        metavar="MILLISECONDS",
        help="requests that take so long are traced whatever the ratio (default: none)",
    )


def _access_log(text: str) -> str:
    if text not in {"off", "errors"}:
        bounded(float, "off, errors or a number", 0.0, 1.0)(text)
    return text


def _run(chosen: argparse.Namespace) -> int:
    host = "127.0.0.1" if chosen.host == "localhost" else chosen.host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        print(f"axon serve: --host: expected an IP address, got {chosen.host!r}", file=sys.stderr)
        return 2
    # The native server has its own handlers, which would otherwise run Python's after themselves.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    loading = replace(
        cache_settings(chosen, may_be_off=True),
        control=chosen.model_control_mode,
        memory_budget=chosen.memory_budget,
        eviction_policy=chosen.eviction_policy,
        quick_load=chosen.quick_load,
        load_models=chosen.load_model,
        poll_s=chosen.repository_poll_secs,
        check=chosen.load_check,
        check_s=chosen.load_check_secs,
        check_bytes=chosen.load_check_bytes,
        response_cache_bytes=chosen.response_cache_size,
    )
    native = model_config(chosen).native(chosen.name, loading=loading)
    try:
        _axon.serve(
            {
                "path": chosen.path,
                "host": host,
                "http_port": chosen.http_port,
                "grpc_port": None if chosen.no_grpc else chosen.grpc_port,
                "metrics_port": chosen.metrics_port,
                "metrics": chosen.metrics,
                "tls_cert": chosen.tls_cert,
                "tls_key": chosen.tls_key,
                "tls_client_ca": chosen.tls_client_ca,
                "max_request_bytes": chosen.max_request_bytes,
                "allow_client_shm": chosen.allow_client_shm,
                "compat": chosen.compat,
                "log_level": chosen.log_level,
                "log_format": chosen.log_format,
                "access_log": chosen.access_log,
                "otlp_endpoint": chosen.otlp_endpoint,
                "otlp_protocol": chosen.otlp_protocol,
                "trace_ratio": chosen.trace_ratio,
                "trace_slow_ms": chosen.trace_slow_ms,
            },
            native,
        )
    except InvalidRequest as error:
        print(f"axon serve: {error}", file=sys.stderr)
        return 2
    return 0
