# The native module. Private: its users are the modules of the package.

from collections.abc import Callable
from pathlib import Path
from typing import Any, Never, TypeAlias, TypedDict, final

__all__ = [
    "Buffer",
    "Cache",
    "Completions",
    "Server",
    "__version__",
    "check_load",
    "close_all",
    "examine",
    "runtime_version",
    "serve",
    "simulate",
]

NativeInput: TypeAlias = tuple[str | None, str, tuple[int, ...], Any]
NativeError: TypeAlias = tuple[str, str, str | None, float | None]
NativeOutput: TypeAlias = tuple[str, str, tuple[int, ...], Any]
NativeQuestion: TypeAlias = tuple[str, int | None, list[str], float | None]

class NativeConfig(TypedDict):
    name: str | None
    max_batch_size: int | None
    max_queue_size: int | None
    request_timeout_s: float
    latency_target_s: float | None
    batching: str
    instances: int | None
    lanes: int | None
    profile: str
    device: str
    runtime_library: str | None
    control: str
    load_models: list[str]
    memory_budget: int | None
    eviction_policy: str
    repository_poll_s: int
    load_check: str
    load_check_s: int
    load_check_bytes: int | None
    load_check_command: list[str]
    model_cache: bool
    model_cache_folder: str | None
    model_cache_bytes: int
    quick_load: bool
    response_cache_bytes: int

class NativeServe(TypedDict):
    path: str
    host: str
    http_port: int
    grpc_port: int | None
    metrics_port: int
    metrics: str
    tls_cert: str | None
    tls_key: str | None
    tls_client_ca: str | None
    max_request_bytes: int
    allow_client_shm: bool
    compat: str
    log_level: str
    log_format: str
    access_log: str
    otlp_endpoint: str | None
    otlp_protocol: str | None
    trace_ratio: float
    trace_slow_ms: int | None

class NativeReplay(TypedDict):
    arrivals: list[float]
    rows: list[int]
    deadline_s: float
    curve: list[tuple[int, float]]
    instances: int
    max_batch_rows: int
    max_queue_size: int
    noise: float
    seed: int

class NativeReplayReport(TypedDict):
    received: int
    in_time: int
    late: int
    refused_queue_full: int
    refused_predicted: int
    shed: int
    expired: int
    batches: int
    mean_batch_rows: float
    p50_s: float | None
    p99_s: float | None
    max_s: float | None
    busy: float
    elapsed_s: float
    trace: str

__version__: str

@final
class Buffer:
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Cache:
    @staticmethod
    def open(config: NativeConfig) -> Cache: ...
    @staticmethod
    def find(path: str) -> list[tuple[str, int, str | None, str | None]]: ...
    def add(self, path: str, again: bool, watch: Callable[[int], None]) -> str: ...
    def list(self) -> str: ...
    def verify(self, key: str) -> str | None: ...
    def remove(self, key: str) -> bool: ...

@final
class Completions:
    def __new__(cls) -> Completions: ...
    def fileno(self) -> int: ...
    def drain(self) -> list[tuple[int, list[NativeOutput] | None, NativeError | None]]: ...

@final
class Server:
    @staticmethod
    def load(path: str, config: NativeConfig) -> Server: ...
    @staticmethod
    def open(path: str, config: NativeConfig) -> Server: ...
    def infer(
        self, inputs: list[NativeInput], question: NativeQuestion
    ) -> tuple[list[NativeOutput] | None, NativeError | None]: ...
    def submit(
        self, inputs: list[NativeInput], question: NativeQuestion, completions: Completions, token: int
    ) -> NativeError | None: ...
    def cancel(self, token: int) -> None: ...
    def models(self) -> list[tuple[str, int, str, str | None]]: ...
    def versions(self, model: str, version: int | None) -> list[int]: ...
    def report(self, model: str, version: int | None) -> str: ...
    def is_ready(self) -> bool: ...
    def close(self) -> None: ...

def check_load(arguments: list[str]) -> Never: ...
def close_all() -> None: ...
def examine(
    path: str, config: NativeConfig, loads: bool
) -> list[tuple[str, int | None, Path, int, str | None, str | None, list[str]]]: ...
def serve(options: NativeServe, config: NativeConfig) -> None: ...
def runtime_version() -> str | None: ...
def simulate(trace: NativeReplay) -> NativeReplayReport: ...
