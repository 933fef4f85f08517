"""What the tests of traces share: a server that sends its spans to a collector, questions, and what a context says."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from collector import collector_environment
from serving import serving
from tritonclient.grpc import service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from collector import Collector, Span
    from serving import Server

__all__ = ["CALLER", "PARENT", "PARTS", "TRACE", "assert_whole", "call", "read", "traced_server"]

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"
CALLER: Final = f"00-{TRACE}-{PARENT}-01"
PARTS: Final = ["receive", "queue", "compute", "send"]


@contextmanager
def traced_server(model: Path, collector: Collector, *options: str, **variables: str) -> Iterator[Server]:
    """Serve `model` by one instance, and send spans to `collector`."""
    env = collector_environment(**variables)
    with serving(model, "--otlp-endpoint", collector.url, "--instances", "1", *options, env=env) as server:
        yield server


def call(request_id: str = "") -> Any:  # noqa: ANN401 - the messages have no types
    """Return a question to the model `echo`."""
    given = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 3]}
    raw = np.zeros((1, 3), np.float32).tobytes()
    return pb.ModelInferRequest(model_name="echo", id=request_id, inputs=[given], raw_input_contents=[raw])


def read(traceparent: str) -> tuple[str, str, int]:
    """Return the trace, the span and the flags of a `traceparent`."""
    version, trace, span, flags = traceparent.split("-")
    assert (version, len(trace), len(span)) == ("00", 32, 16)
    return trace, span, int(flags, 16)


def assert_whole(spans: dict[str, Span]) -> None:
    """Check that the parts of a request lie in it, one after the other."""
    server = spans["server"]
    parts = [spans[name] for name in PARTS]
    assert all(part.parent == server.id for part in parts)
    moments = [moment for part in parts for moment in (part.start, part.end)]
    assert [server.start, *moments, server.end] == sorted([server.start, *moments, server.end])
    assert len({span.id for span in spans.values()}) == len(spans)
