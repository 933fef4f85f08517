"""Settings of the server and its models."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from axon._runtime import find_library
from axon.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from axon._axon import NativeConfig

__all__ = ["Loading", "ModelConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """Which models a server loads, when and how.

    Attributes:
        control: Who decides which models are loaded: "none", "explicit", "poll" or "auto".
        memory_budget: Bytes that loaded models may take together when `control` is "auto"; None is what the host
            has, less a tenth or 256 MiB.
        eviction_policy: Which models leave first when `control` is "auto": "value" (those whose bytes save the least
            time of loading) or "lru" (those that were used longest ago, to compare with).
        load_models: The models to load at start when `control` is "explicit".
        poll_s: Seconds between two looks at the repository when `control` is "poll"; 0 leaves it to the system to tell.
        check: Which models are loaded for trial in a process of their own: "always", "first" or "off".
        check_s: Seconds that a trial may take; large models are given more.
        check_bytes: Bytes of address space that a trial may take; None chooses by the model's size.
        model_cache: Whether models are kept as they are made ready for this machine, to load faster.
        model_cache_folder: Where; None is `axon/models` in the user's cache folder.
        model_cache_bytes: The most bytes of it.
        quick_load: Whether an imported model answers before its weights are packed, within milliseconds of its load;
            those answers may differ in their last bits from the later ones.
        response_cache_bytes: Bytes of answers that are kept, of all models whose configuration asks for it; 0 is off.
    """

    control: str = "none"
    memory_budget: int | None = None
    eviction_policy: str = "value"
    load_models: Sequence[str] = ()
    poll_s: int = 15
    check: str = "off"
    check_s: int = 60
    check_bytes: int | None = None
    model_cache: bool = False
    model_cache_folder: str | None = None
    model_cache_bytes: int = 16 << 30
    quick_load: bool = False
    response_cache_bytes: int = 64 << 20


#: What each value of `ModelConfig.batching` is called in the native module.
_BATCHING: Final = {True: "auto", "auto": "auto", False: "off", "off": "off", "always": "always"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """How models are run. Every default is chosen at load or safe; none needs tuning.

    Attributes:
        max_batch_size: Most rows of one request, at least 1; None leaves it to the memory.
        max_queue_size: Most requests that wait for each model, at least 1; one more is `Overloaded`. None is 1,024.
        latency_target_s: Seconds within which requests are to be answered that do not say; it is held by refusing at
            once what would be late. None has `request_timeout_s`.
        request_timeout_s: Seconds that a request may wait for its answer when it does not say, more than 0; at most
            300. A run that has begun is not stopped.
        batching: Whether requests may share a run. True, or "auto", lets the load-time probe decide; False, or "off",
            never; "always" also where rows influence each other, so that an answer may depend on who asks at the same
            time.
        instances: Threads that run each model, at least 1 and at most the cores granted; None chooses at load.
        lanes: Runs at the same time on the device, counted by their threads, all models together, at least 1; None has
            the cores granted, and never fewer than one model alone uses.
        profile: What instances and the threads of one run are chosen for: "throughput" (most rows a second) or
            "latency" (the shortest run, as long as half of the best throughput is kept).
        device: "cpu", or "cuda" for the first NVIDIA GPU. There is no fallback from one to the other.
    """

    max_batch_size: int | None = None
    max_queue_size: int | None = None
    request_timeout_s: float = 10.0
    latency_target_s: float | None = None
    batching: bool | Literal["auto", "off", "always"] = True
    instances: int | None = None
    lanes: int | None = None
    profile: str = "throughput"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse counts and a way of batching that cannot be.

        Raises:
            InvalidRequest: A count is no integer of at least 1, or `batching` is none of its values; `field` names it.
        """
        if not isinstance(self.batching, (bool, str)) or self.batching not in _BATCHING:
            problem = f"expected True, False, 'auto', 'off' or 'always', got {self.batching!r}"
            raise InvalidRequest(f"batching: {problem}", "batching")
        for field in ("max_batch_size", "max_queue_size", "instances", "lanes"):
            count = getattr(self, field)
            if count is not None and not (isinstance(count, int) and 1 <= count < 2**63):
                raise InvalidRequest(f"{field}: expected an integer of at least 1, got {count!r}", field)

    def native(self, name: str | None = None, *, loading: Loading | None = None) -> NativeConfig:
        """Return the settings as the native module takes them.

        Args:
            name: The name of a lone file's model; the file's when None.
            loading: Which models are loaded, when and how; as `Loading` has it when None.
        """
        loading = loading or Loading()
        return {
            "name": name,
            "max_batch_size": self.max_batch_size,
            "max_queue_size": self.max_queue_size,
            "request_timeout_s": self.request_timeout_s,
            "latency_target_s": self.latency_target_s,
            "batching": _BATCHING[self.batching],
            "instances": self.instances,
            "lanes": self.lanes,
            "profile": self.profile,
            "device": self.device,
            "runtime_library": find_library(),
            "control": loading.control,
            "load_models": list(loading.load_models),
            "memory_budget": loading.memory_budget,
            "eviction_policy": loading.eviction_policy,
            "repository_poll_s": loading.poll_s,
            "load_check": loading.check,
            "load_check_s": loading.check_s,
            "load_check_bytes": loading.check_bytes,
            # Without the working directory, in which a file could stand for a module.
            "load_check_command": [sys.executable, "-P", "-m", "axon._check_load"],
            "model_cache": loading.model_cache,
            "model_cache_folder": loading.model_cache_folder,
            "model_cache_bytes": loading.model_cache_bytes,
            "quick_load": loading.quick_load,
            "response_cache_bytes": loading.response_cache_bytes,
        }
