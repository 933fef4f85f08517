"""`axon explain`: why a model on a server answers as it does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from axon.cli.ask import TIMEOUT_S, URL, ask
from axon.cli.options import add_trust_options, trust

if TYPE_CHECKING:
    import argparse

    from axon.cli.parser import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explain",
        help="show what a server has learned of a model, its load, and what it refuses",
        description="Ask a running server what it has learned of a model: what a run takes, how the model is run, how "
        "much comes and how much it can do, and what was refused for which reason.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model on the server")
    parser.add_argument("--url", default=URL, help=f"the server, http:// or grpc:// (default: {URL})")
    parser.add_argument("--model-version", metavar="N", help="its version (default: the server's choice)")
    parser.add_argument("--json", action="store_true", help="print JSON; docs/scheduling.md says what is in it")
    add_trust_options(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    document = _ask(chosen)
    if chosen.json:
        print(json.dumps(document, indent=2))
    else:
        print("\n".join(lines(document)))
    return 0


def _ask(chosen: argparse.Namespace) -> dict[str, Any]:
    if chosen.url.startswith(("grpc://", "grpcs://")):
        return _ask_by_grpc(chosen)
    version = f"/versions/{quote(chosen.model_version, safe='')}" if chosen.model_version else ""
    return ask(chosen.url, f"v2/models/{quote(chosen.model, safe='')}{version}/explain", "run_time", trust(chosen))


def _ask_by_grpc(chosen: argparse.Namespace) -> dict[str, Any]:
    from axon.client import Client  # noqa: PLC0415 - the command line starts without it

    whom = trust(chosen)
    with Client(chosen.url, retries=0, timeout_s=TIMEOUT_S, ca=whom.ca, certificate=whom.certificate) as client:
        return client.explain(chosen.model, version=chosen.model_version)


def lines(document: dict[str, Any]) -> list[str]:
    """Return what `/v2/models/M/explain` answers, for people."""
    run, plan, load = document["run_time"], document["plan"], document["load"]
    target = document["latency_target_ms"]
    limit = f"target {target:g} ms" if target else f"no target; timeout {document['request_timeout_ms']:g} ms"
    capacity, p99 = load["capacity_rows_per_second"], load["predicted_p99_ms"]
    share = f", {100 * load['arriving_rows_per_second'] / capacity:.0f} % of it" if capacity else ""
    refused = ", ".join(f"{reason} {count}" for reason, count in document["refused"].items() if count)
    batches = f"up to {plan['max_batch_rows']} rows" if plan["max_batch_rows"] > 1 else "no batches"
    if plan["not_batchable_because"]:
        batches += f" ({plan['not_batchable_because']})"
    return [
        f"model      {document['model_name']} version {document['model_version']}; {limit}",
        (
            f"run        {run['fixed_ms']:.3f} ms + {run['per_row_ms']:.4f} ms a row, margin {run['margin']:.2f}, "
            f"learned from {run['runs']} runs"
        ),
        (
            f"plan       {_count(plan['instances'], 'instance')} of {_count(plan['threads'], 'thread')}, {batches}; "
            f"a full batch takes {run['full_batch_ms']:.3f} ms"
        ),
        f"why        {plan['chosen_because']}",
        f"device     {_device(document['device'])}",
        f"load       {load['arriving_rows_per_second']:.1f} rows/s come, "
        + (f"{capacity:.0f} rows/s can be run{share}" if capacity else "the model takes no time"),
        f"now        {load['waiting']} wait, {load['running']} run",
        "p99        " + (f"{p99:.2f} ms expected" if p99 is not None else "no limit: more comes than can be run"),
        *_kept(document.get("response_cache")),
        f"refused    {refused or 'nothing'}",
        f"refusing   {document['refusing_because'] or 'no'}",
    ]


def _kept(cache: dict[str, Any] | None) -> list[str]:
    """Say what became of a model's questions whose answers are kept."""
    if cache is None:
        return []
    ttl = f"for {cache['ttl_s']:g} s" if cache["ttl_s"] else "as long as there is room"
    return [f"cache      hits {cache['hits']}, misses {cache['misses']}; answers are kept {ttl}"]


def _device(device: dict[str, Any]) -> str:
    lanes = _count(device["lanes"], "lane")
    if not device["is_shared"]:
        return f"{lanes}, all its own"
    cap = device["longest_run_ms"]
    longest = f"runs of {cap:g} ms at most" if cap is not None else "runs of any length"
    return f"{lanes} shared with other models; weight {device['weight']}, {100 * device['share']:.0f} % sure, {longest}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
