"""A collector of traces: takes the official messages of OpenTelemetry over HTTP and gRPC, and keeps the spans."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from serving import PATIENCE_S, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Collector", "Span", "collecting", "collector_environment"]


@dataclass(frozen=True)
class Span:
    """A span as it came, its ids in hexadecimal and its attributes as Python values."""

    name: str
    trace: str
    id: str
    parent: str
    state: str
    kind: int
    start: int
    end: int
    flags: int
    status: int
    message: str
    attributes: Mapping[str, Any]
    links: tuple[tuple[str, str], ...]
    resource: Mapping[str, Any]

    @property
    def place(self) -> tuple[str, str]:
        """Its trace and itself, as a link names them."""
        return self.trace, self.id

    @property
    def is_server(self) -> bool:
        """Whether it is of a whole request."""
        return self.kind == 2


@dataclass
class Collector:
    """What came, and what is answered.

    Attributes:
        url: Where it listens.
        spans: All spans, in the order in which they came.
        headers: The headers or metadata of each message.
        refusals: Statuses of HTTP to answer with first, one for each message, before any is taken.
        rejected: How many spans of each message it says that it did not take.
    """

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    rejected: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, request: Any, headers: Mapping[str, str]) -> Any:  # noqa: ANN401 - the messages have no types
        """Keep the spans of a message, and answer it."""
        found = [
            _span(span, _attributes(of.resource.attributes))
            for of in request.resource_spans
            for scope in of.scope_spans
            for span in scope.spans
        ]
        with self._changed:
            self.spans += found
            self.headers.append(dict(headers))
            self._changed.notify_all()
        partial = service.ExportTracePartialSuccess(rejected_spans=self.rejected)
        return service.ExportTraceServiceResponse(partial_success=partial)

    def wait(self, is_enough: Callable[[list[Span]], bool]) -> list[Span]:
        """Wait until what has come is enough, and return it."""
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while not is_enough(self.spans):
                left = deadline - time.monotonic()
                assert left > 0, f"too few spans came, {len(self.spans)}: {[span.name for span in self.spans[-50:]]}"
                self._changed.wait(left)
            return list(self.spans)

    def of_trace(self, trace: str) -> dict[str, Span]:
        """Wait for the spans of one request, and return them by name."""
        spans = self.wait(lambda spans: any(span.trace == trace and span.is_server for span in spans))
        return {span.name if not span.is_server else "server": span for span in spans if span.trace == trace}

    def servers(self) -> list[Span]:
        """Return the spans of whole requests that have come."""
        with self._changed:
            return [span for span in self.spans if span.is_server]


def _attributes(pairs: Any) -> dict[str, Any]:  # noqa: ANN401
    def plain(value: Any) -> Any:  # noqa: ANN401
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [plain(one) for one in value.array_value.values]
        return getattr(value, kind)

    return {pair.key: plain(pair.value) for pair in pairs}


def _span(span: Any, resource: Mapping[str, Any]) -> Span:  # noqa: ANN401
    return Span(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        state=span.trace_state,
        kind=span.kind,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        flags=span.flags,
        status=span.status.code,
        message=span.status.message,
        attributes=_attributes(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        resource=resource,
    )


def collector_environment(**changes: str | None) -> dict[str, str]:
    """Return an environment in which nothing but `changes` is said of collectors, and spans leave soon."""
    said = {name: None for name in environment() if name.startswith("OTEL_")}
    return environment(**{**said, "OTEL_BSP_SCHEDULE_DELAY": "20", **changes})


@contextmanager
def collecting(protocol: str) -> Iterator[Collector]:
    """Collect spans that are sent by `protocol` until the `with` block ends."""
    collector = Collector()
    serve = {"http/protobuf": _over_http, "grpc": _over_grpc}[protocol]
    with serve(collector) as port:
        collector.url = f"http://127.0.0.1:{port}"
        yield collector


@contextmanager
def _over_http(collector: Collector) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version: Final = "HTTP/1.1"  # type: ignore[misc]

        def do_POST(self) -> None:
            assert self.path == "/v1/traces", self.path
            assert self.headers["content-type"] == "application/x-protobuf"
            body = self.rfile.read(int(self.headers["content-length"]))
            if collector.refusals:
                self._answer(collector.refusals.pop(0), b"")
                return
            request = service.ExportTraceServiceRequest.FromString(body)
            named = {name.lower(): value for name, value in self.headers.items()}
            self._answer(200, collector.take(request, named).SerializeToString())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE_S)


@contextmanager
def _over_grpc(collector: Collector) -> Iterator[int]:
    class Service(service_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: ANN401, N802 - the name is the protocol's
            return collector.take(request, dict(context.invocation_metadata()))

    server = grpc.server(ThreadPoolExecutor(4))
    # The generated code has no types.
    add: Any = service_grpc.add_TraceServiceServicer_to_server
    add(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(PATIENCE_S)
