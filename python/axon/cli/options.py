"""Options that commands share: how models are run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from axon.cli.parser import Parser, bounded, model_name
from axon.config import ModelConfig

if TYPE_CHECKING:
    import argparse

__all__ = ["add_model_options", "model_config"]

_MOST = 1_000_000


def add_model_options(parser: Parser) -> None:
    """Add the options of `ModelConfig` to a command."""
    model = parser.add_argument_group("models", "each default is chosen at load or safe; none needs tuning")
    model.add_argument("--name", type=model_name, help="name of a lone file's model (default: the file's)")
    model.add_argument(
        "--max-batch-size",
        type=bounded(int, "an integer", 1, _MOST),
        metavar="ROWS",
        help="most rows of one request (default: what fits the request's size limit)",
    )
    model.add_argument(
        "--instances",
        type=bounded(int, "an integer", 1, _MOST),
        metavar="N",
        help="threads that run each model, at most the cores granted (default: chosen at load)",
    )
    model.add_argument(
        "--profile",
        choices=["throughput", "latency"],
        default="throughput",
        help="what instances and threads are chosen for (default: throughput)",
    )
    model.add_argument("--no-batching", action="store_true", help="never let requests share a run")
    model.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where models run (default: cpu)")
    model.add_argument(
        "--request-timeout",
        type=bounded(float, "seconds", 0.001, 300.0),
        default=10.0,
        metavar="SECONDS",
        help="how long a request may wait to be run when it does not say (default: 10)",
    )
    model.add_argument(
        "--max-queue-size",
        type=bounded(int, "an integer", 1, _MOST),
        metavar="N",
        help="most requests that wait for each model; one more is told to come again (default: 1024)",
    )


def model_config(chosen: argparse.Namespace) -> ModelConfig:
    """Return the settings that were chosen."""
    return ModelConfig(
        max_batch_size=chosen.max_batch_size,
        max_queue_size=chosen.max_queue_size,
        request_timeout_s=chosen.request_timeout,
        batching=not chosen.no_batching,
        instances=chosen.instances,
        profile=chosen.profile,
        device=chosen.device,
    )
