"""Reads a server's metrics as Prometheus would: text, OpenMetrics, protobuf."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric
    from serving import Server

__all__ = [
    "HISTOGRAMS",
    "OPENMETRICS",
    "PROTOBUF",
    "TEXT",
    "Scrape",
    "adds_up",
    "families_of",
    "fetch",
    "metrics_address",
    "scrape",
    "wait_for",
]

TEXT: Final = "text/plain;version=0.0.4"
OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"
PROTOBUF: Final = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

#: Those that have one value for each request that was answered.
HISTOGRAMS: Final = (
    "axon_request_duration_seconds",
    "axon_queue_duration_seconds",
    "axon_compute_duration_seconds",
    "axon_request_size_bytes",
    "axon_response_size_bytes",
)

PATIENCE_S: Final = 30.0
ROOT: Final = Path(__file__).resolve().parent.parent


class Fetched(NamedTuple):
    """What came back."""

    content_type: str
    body: bytes


class Scrape:
    """The samples of one scrape."""

    def __init__(self, families: list[Metric]) -> None:
        """Take them from what a parser read."""
        self.families: Final = {family.name: family for family in families}
        self.samples: Final = [sample for family in families for sample in family.samples]

    def of(self, name: str, **labels: str) -> float:
        """Sum the samples called `name` that have these labels."""
        matching = (
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )
        return sum(matching)

    def by(self, name: str, *labels: str) -> Counter[Any]:
        """Sum the samples called `name` by the values of these labels."""
        sums: Counter[Any] = Counter()
        for sample in self.samples:
            if sample.name == name:
                key = tuple(sample.labels[label] for label in labels)
                sums[key if len(labels) > 1 else key[0]] += int(sample.value)
        return +sums

    def series(self) -> set[tuple[str, ...]]:
        """Return each series, but for its value."""
        return {(sample.name, *map(str, sorted(sample.labels.items()))) for sample in self.samples}


def metrics_address(server: Server) -> str:
    """Return the URL that the server says it tells metrics at."""
    found = re.search(r"^metrics: (\S+)$", server.printed, re.MULTILINE)
    assert found, server.printed
    return found[1]


def fetch(url: str, accept: str = TEXT) -> Fetched:
    """Scrape once."""
    request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310 - a server of these tests
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:  # noqa: S310
        return Fetched(response.headers["Content-Type"], response.read())


def scrape(server: Server, accept: str = TEXT) -> Scrape:
    """Scrape once and read what came with the parser for it."""
    content_type, body = fetch(metrics_address(server), accept)
    read = read_openmetrics if "openmetrics" in content_type else read_text
    return Scrape(list(read(body.decode())))


def wait_for(server: Server, what: str, holds: Callable[[Scrape], bool]) -> None:
    """Scrape until `holds` does."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds(told := scrape(server)):
        assert time.monotonic() < deadline, f"waited in vain until {what}: {told.samples}"


def adds_up(one: Scrape) -> bool:
    """Check that every request that came has ended in one way or is in flight, by model, version and protocol."""
    labels = ("model", "version", "protocol")
    received = one.by("axon_requests_received_total", *labels)
    ended = one.by("axon_requests_total", *labels)
    in_flight = one.by("axon_requests_in_flight", *labels)
    answered = Counter(
        {
            key: sum(
                int(sample.value)
                for sample in one.samples
                if sample.name == "axon_requests_total"
                and (sample.labels["model"], sample.labels["version"]) == key
                and sample.labels["code"] in ("200", "OK")
            )
            for key in {key[:2] for key in received}
        }
    )
    refused = one.by("axon_requests_refused_total", "model", "version")
    by_version: Counter[tuple[str, str]] = Counter()
    for key, count in ended.items():
        by_version[key[:2]] += count
    return received == ended + in_flight and by_version == +answered + refused


def families_of(body: bytes) -> dict[str, Any]:
    """Read families of protobuf, by name."""
    message = _family_class()
    families: dict[str, Any] = {}
    at = 0
    while at < len(body):
        length, at = _varint(body, at)
        family = message.FromString(body[at : at + length])
        families[family.name] = family
        at += length
    return families


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _family_class() -> Any:  # noqa: ANN401 - made at run time
    """Build the message from `proto/metrics.proto`, read here by a reader of its own."""
    text = re.sub(r"//[^\n]*", "", (ROOT / "proto" / "metrics.proto").read_text(encoding="utf-8"))
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="io.prometheus.client", syntax="proto3")
    for kind, name, body in re.findall(r"(message|enum) (\w+) \{([^}]*)\}", text):
        if kind == "enum":
            values = re.findall(r"(\w+) = (\d+);", body)
            enum = file.enum_type.add(name=name)
            for value, number in values:
                enum.value.add(name=value, number=int(number))
        else:
            message = file.message_type.add(name=name)
            for repeated, type_name, field, number in re.findall(r"(repeated )?(\w+) (\w+) = (\d+);", body):
                _add_field(message, (repeated, type_name, field, int(number)), _scalars())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("io.prometheus.client.MetricFamily"))


def _scalars() -> Mapping[str, int]:
    types = descriptor_pb2.FieldDescriptorProto.Type
    return {name.removeprefix("TYPE_").lower(): number for name, number in types.items()}


def _add_field(
    message: descriptor_pb2.DescriptorProto, field: tuple[str, str, str, int], scalars: Mapping[str, int]
) -> None:
    repeated, type_name, name, number = field
    proto = descriptor_pb2.FieldDescriptorProto
    label = proto.LABEL_REPEATED if repeated else proto.LABEL_OPTIONAL
    added = message.field.add(name=name, number=number, label=label)
    if type_name in scalars:
        added.type = scalars[type_name]
    else:
        added.type = proto.TYPE_ENUM if type_name == "MetricType" else proto.TYPE_MESSAGE
        added.type_name = f".io.prometheus.client.{type_name}"


def native_counts(histogram: Any) -> Iterator[tuple[int, int]]:  # noqa: ANN401 - made at run time
    """Yield the index and the count of each native bucket."""
    index = count = 0
    deltas = iter(histogram.positive_delta)
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            yield index, count
            index += 1
