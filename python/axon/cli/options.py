"""Options that commands share: how models are run, and what they are asked."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from axon.cli.parser import Parser, bounded, duration, model_name
from axon.config import ModelConfig
from axon.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from axon._tls import Trust

__all__ = [
    "LARGEST_SEED",
    "add_input_options",
    "add_model_options",
    "add_trust_options",
    "count",
    "in_options",
    "model_config",
    "trust",
]

LARGEST_SEED: Final = 2**32 - 1
#: The options that say what a client is made with, by the field that an error names.
_CLIENT_OPTIONS: Final = {"url": "--url", "ca": "--tls-ca", "certificate": "--tls-cert", "key": "--tls-key"}
_MOST: Final = 1_000_000
_LONGEST_S: Final = 300.0


def add_input_options(parser: argparse.ArgumentParser, *, seed_of: str) -> None:
    """Add the options that say what a model is asked; `InputReader` reads them. The seed is `seed_of` what."""
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="@file.npy, @file.npz:key, @file.json, @image.png, 1,2,3, JSON or random; the name may be left out of "
        "@file if there is one input",
    )
    parser.add_argument("--batch", type=count("rows"), metavar="N", help="rows, where the first dimension is dynamic")
    parser.add_argument(
        "--shape", action="append", type=_shape, default=[], metavar="NAME=1,3,224,224", help="an input's dimensions"
    )
    parser.add_argument(
        "--seed",
        type=bounded(int, "an integer", 0, LARGEST_SEED),
        metavar="N",
        help=f"of {seed_of} (default: another each time; it is printed)",
    )


def add_trust_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say whom a client trusts; `trust` reads them."""
    group = parser.add_argument_group("TLS", "for a server at https:// or grpcs://; all files are PEM")
    group.add_argument(
        "--tls-ca", metavar="FILE", help="certificates of which one has signed the server's (default: the system's)"
    )
    group.add_argument("--tls-cert", metavar="FILE", help="this client's certificate, for a server that asks for one")
    group.add_argument("--tls-key", metavar="FILE", help="its private key (default: in the file of --tls-cert)")


def trust(chosen: argparse.Namespace) -> Trust:
    """Return what the options of `add_trust_options` say.

    Raises:
        InvalidRequest: There is a key without a certificate.
    """
    from axon._tls import Trust  # noqa: PLC0415 - and what comes with it, which most commands do not need

    if chosen.tls_cert is None and chosen.tls_key is not None:
        raise InvalidRequest("key: expected its certificate with --tls-cert, got nothing", "key")
    certificate = None if chosen.tls_cert is None else (chosen.tls_cert, chosen.tls_key or chosen.tls_cert)
    return Trust(ca=chosen.tls_ca, certificate=certificate)


def in_options(error: InvalidRequest) -> str | None:
    """Say an error in the words of the command line; None when it is about no option of a client."""
    option = _CLIENT_OPTIONS.get(error.field or "")
    return None if option is None else f"{option}: {error.message.removeprefix(f'{error.field}: ')}"


def count(what: str) -> Callable[[str], int]:
    """Return a parser of how many there are of `what`."""
    return bounded(int, what, 1, _MOST)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    from axon.cli.inputs import parse_shape  # noqa: PLC0415 - the command line starts without NumPy

    try:
        return parse_shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected NAME=1,3,224,224, got {text!r}") from error


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
        "--lanes",
        type=bounded(int, "an integer", 1, _MOST),
        metavar="N",
        help="runs at the same time on the device, counted by their threads, all models together (default: the cores "
        "granted, and never fewer than one model alone uses)",
    )
    model.add_argument(
        "--profile",
        choices=["throughput", "latency"],
        default="throughput",
        help="what instances and threads are chosen for (default: throughput)",
    )
    batching = model.add_mutually_exclusive_group()
    batching.add_argument(
        "--batching",
        choices=["auto", "off", "always"],
        default="auto",
        help="whether requests share a run: if rows do not influence each other, never, or even then (default: auto)",
    )
    batching.add_argument(
        "--no-batching", action="store_const", dest="batching", const="off", help="the same as --batching off"
    )
    model.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where models run (default: cpu)")
    model.add_argument(
        "--request-timeout",
        type=bounded(float, "seconds", 0.001, 300.0),
        default=10.0,
        metavar="SECONDS",
        help="how long a request may wait for its answer when it does not say (default: 10)",
    )
    model.add_argument(
        "--latency-target",
        type=duration(1e-6, _LONGEST_S, needs_unit=True),
        metavar="TIME",
        help="the time within which requests are answered that do not say, such as 10ms or 0.5s; what would be late is "
        "refused at once (default: none)",
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
        latency_target_s=chosen.latency_target,
        batching=chosen.batching,
        instances=chosen.instances,
        lanes=chosen.lanes,
        profile=chosen.profile,
        device=chosen.device,
    )
