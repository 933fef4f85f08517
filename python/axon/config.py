"""Settings of the server and its models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from axon._runtime import find_library
from axon.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from axon._axon import NativeConfig

__all__ = ["ModelConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """How models are run. Every default is chosen at load or safe; none needs tuning.

    Attributes:
        max_batch_size: Most rows of one request, at least 1; None leaves it to the memory.
        max_queue_size: Most requests that wait for each model, at least 1; one more is `Overloaded`. None is 1,024.
        request_timeout_s: Seconds that a request may wait to be run when it does not say, more than 0; at most 300. A
            run that has begun is not stopped.
        batching: Whether requests may share a run. True lets the load-time probe decide; False never.
        instances: Threads that run each model, at least 1 and at most the cores granted; None chooses at load.
        profile: What instances and the threads of one run are chosen for: "throughput" (most rows a second) or
            "latency" (the shortest run, as long as half of the best throughput is kept).
        device: "cpu", or "cuda" for the first NVIDIA GPU. There is no fallback from one to the other.
    """

    max_batch_size: int | None = None
    max_queue_size: int | None = None
    request_timeout_s: float = 10.0
    batching: bool = True
    instances: int | None = None
    profile: str = "throughput"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse counts that cannot be.

        Raises:
            InvalidRequest: A count is no integer of at least 1; `field` names it.
        """
        for field in ("max_batch_size", "max_queue_size", "instances"):
            count = getattr(self, field)
            if count is not None and not (isinstance(count, int) and 1 <= count < 2**63):
                raise InvalidRequest(f"{field}: expected an integer of at least 1, got {count!r}", field)

    def native(
        self, name: str | None = None, *, control: str = "none", load_models: Sequence[str] = ()
    ) -> NativeConfig:
        """Return the settings as the native module takes them.

        Args:
            name: The name of a lone file's model; the file's when None.
            control: Who decides which models are loaded: "none" or "explicit".
            load_models: The models to load at start when `control` is "explicit".
        """
        return {
            "name": name,
            "max_batch_size": self.max_batch_size,
            "max_queue_size": self.max_queue_size,
            "request_timeout_s": self.request_timeout_s,
            "batching": self.batching,
            "instances": self.instances,
            "profile": self.profile,
            "device": self.device,
            "runtime_library": find_library(),
            "control": control,
            "load_models": list(load_models),
        }
