"""A load generator for any server of the Open Inference Protocol v2, and for a model in this process.

`arrivals` says when requests are due, `load` sends them to a `target` and writes each into a `record`, `summary` makes
figures of the record, `search` looks for the highest rate that holds a limit, and `report` and `plot` show what came
out. `axon.cli.bench` is the command. Nothing here needs the engine but `target` when the model is in this process.

Always: a request has its latency from the moment it was due, not from the one when it could be sent, so that a server
that stalls is charged for everyone whom it kept waiting; and every request that was due is counted as exactly one of
answered, failed, not sent, unfinished.
"""

from __future__ import annotations

from axon.bench.arrivals import Arrivals
from axon.bench.load import Load, run
from axon.bench.record import Record
from axon.bench.summary import Summary, summarise

__all__ = ["Arrivals", "Load", "Record", "Summary", "run", "summarise"]
