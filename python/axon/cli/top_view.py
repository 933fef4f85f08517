"""What `axon top` shows: the overview of a server as lines and tables. Nothing is asked here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["SORTS", "Shown", "view"]

#: Shades from nothing to the most, and the same for terminals without them.
_SHADES: Final = " ░▒▓█"
_ASCII_SHADES: Final = " .:*#"
_NONE: Final = "-"
#: Lines besides the models and the heat map.
_OTHER_LINES: Final = 8
_LEAST_HEAT_ROWS: Final = 4

_KEYS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "name": lambda model: (model["name"], int(model["version"])),
    "rate": lambda model: model.get("requests_per_s") or 0.0,
    "p99": lambda model: model.get("p99_ms") or 0.0,
    "waiting": lambda model: model.get("waiting") or 0,
    "refused": lambda model: sum((model.get("refused") or {}).values()),
    "size": lambda model: model.get("bytes") or 0,
}

#: What models can be sorted by; all but the name begin with the most.
SORTS: Final = tuple(_KEYS)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is shown.

    Attributes:
        overview: The server's answer.
        url: The server.
        sort: One of `SORTS`.
        turned: The order is turned round.
        failure: Why the last look had no answer; None if it had.
    """

    overview: Mapping[str, Any]
    url: str
    sort: str = "name"
    turned: bool = False
    failure: str | None = None

    def after(self, key: str) -> Shown:
        """Return what is shown after a key was pressed."""
        if key == "s":
            return replace(self, sort=SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)], turned=False)
        return replace(self, turned=not self.turned) if key == "r" else self

    def renewed(self, overview: Mapping[str, Any]) -> Shown:
        """Return what is shown after a look that was answered."""
        return replace(self, overview=overview, failure=None)

    def failed(self, reason: str) -> Shown:
        """Return what is shown after a look that was not."""
        return replace(self, failure=reason)

    @property
    def models(self) -> list[Mapping[str, Any]]:
        """The models in their order."""
        is_descending = (self.sort != "name") != self.turned
        return sorted(self.overview["models"], key=_KEYS[self.sort], reverse=is_descending)


def view(shown: Shown, *, height: int, ascii_only: bool) -> RenderableType:
    """Lay out what is shown for a screen of `height` lines; 0 is a page without an end."""
    from rich.console import Group  # noqa: PLC0415 - other commands start without it

    models = shown.models
    room = max(1, height - _OTHER_LINES) if height else len(models)
    parts: list[RenderableType] = [*_head(shown), _table(models[:room], shown, ascii_only=ascii_only)]
    if len(models) > room:
        parts.append(_line(f"and {len(models) - room} more"))
    residency = shown.overview.get("residency")
    if residency and residency["budget_bytes"] is not None:
        parts.append(_line(_memory(residency)))
    rows = height - _OTHER_LINES - len(models) if height else 12
    if rows >= _LEAST_HEAT_ROWS:
        parts.extend(_heat(shown.overview["latency"], rows, _ASCII_SHADES if ascii_only else _SHADES))
    if height:
        parts.append(_line("q ends   s sorts by the next column   r turns the order round", style="dim"))
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    """Return a line of text as it is: neither markup nor what moves the cursor."""
    from rich.text import Text  # noqa: PLC0415

    plain = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    return Text(plain, style=style, no_wrap=True, overflow="ellipsis")


def _head(shown: Shown) -> list[Text]:
    server, latency, models = shown.overview["server"], shown.overview["latency"], shown.overview["models"]
    state = "ready" if server["ready"] else f"not ready: {server['not_ready_because']}"
    name = f"{server['name']} {server['version']} at {shown.url}, up for {_duration(server['uptime_s'])}: "
    first = _line(name)
    first.append_text(_line(state, style="green" if server["ready"] else "bold red"))
    rate, refused, waiting = (
        sum(model.get(key) or 0 for model in models) for key in ("requests_per_s", "refused_per_s", "waiting")
    )
    second = _line(
        f"{_number(rate)} requests/s   p50 {_ms(latency['p50_ms'])}   p99 {_ms(latency['p99_ms'])}   "
        f"{waiting} wait   {_number(refused)} refused/s"
    )
    return [first, *([_line(shown.failure, style="bold red")] if shown.failure else []), second]


def _table(models: list[Mapping[str, Any]], shown: Shown, *, ascii_only: bool) -> Table:
    from rich.box import ASCII, SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=ASCII if ascii_only else SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    arrow = "^" if (shown.sort == "name") != shown.turned else "v"
    names = ("model", "state", "size", "rate", "p50", "p99", "target", "rows", "waiting", "running", "refused")
    for name in names:
        is_text = name in {"model", "state", "refused"}
        title = f"{name} {arrow}" if name == shown.sort or (name == "model" and shown.sort == "name") else name
        table.add_column(title, justify="left" if is_text else "right", no_wrap=name != "state")
    for model in models:
        table.add_row(*_cells(model))
    return table


def _cells(model: Mapping[str, Any]) -> list[Text]:
    name = _line(f"{model['name']} {model['version']}")
    state = _line(model["state"].lower() + (f": {model['reason']}" if model["reason"] else ""))
    state.no_wrap = False
    if model["state"] != "READY":
        state.stylize("red" if model["state"] == "UNAVAILABLE" else "yellow")
        return [name, state]
    target, line, p99 = model["latency_target_ms"], model["line_ms"], model["p99_ms"]
    refused = ", ".join(f"{reason} {count}" for reason, count in model["refused"].items() if count)
    is_late = p99 is not None and p99 > line
    return [
        name,
        state,
        _line(_bytes(model["bytes"])),
        _line(_number(model["requests_per_s"])),
        _line(_ms(model["p50_ms"])),
        _line(_ms(p99), style="bold red" if is_late else ""),
        _line(_ms(target) if target else f"({_ms(line)})"),
        _line(_number(model["mean_batch_rows"])),
        _line(str(model["waiting"])),
        _line(str(model["running"])),
        _line(refused or "0", style="bold red" if model["refusing_because"] else ""),
    ]


def _memory(residency: Mapping[str, Any]) -> str:
    loaded = sum(1 for model in residency["models"] if model["state"] == "READY")
    return (
        f"memory: {_bytes(residency['charged_bytes'])} of {_bytes(residency['budget_bytes'])}, "
        f"{loaded} of {len(residency['models'])} models loaded, {residency['evictions']} evictions"
    )


def _heat(latency: Mapping[str, Any], rows: int, shades: str) -> list[Text]:
    """Draw how latencies were spread: a column for each slot, a row for each latency, the slowest on top."""
    slots = [slot["counts"] for slot in latency["slots"]]
    used = [row for counts in slots for row, count in enumerate(counts) if count]
    if not used:
        return []
    low, high = min(used), max(used)
    # Rows are put together where there are more than fit.
    step = -(-(high - low + 1) // max(1, rows - 2))
    bounds = latency["bounds_ms"]
    most = max(max(counts) for counts in slots)
    lines = [_line(f"latency of the last {len(slots) * latency['slot_s'] / 60:g} minutes, the newest on the right")]
    for first in range(low + (high - low) // step * step, low - 1, -step):
        last = min(first + step - 1, high)
        name = _ms(bounds[last]) if last < len(bounds) else "more"
        cells = "".join(_shade(sum(counts[first : last + 1]), most, shades) for counts in slots)
        lines.append(_line(f"{name:>9} {cells}"))
    return lines


def _shade(count: int, most: int, shades: str) -> str:
    """Return a shade by the number of digits, so that one among thousands is seen."""
    if not count:
        return shades[0]
    part = count.bit_length() / max(1, most.bit_length())
    return shades[min(len(shades) - 1, max(1, round(part * (len(shades) - 1))))]


def _number(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"  # noqa: PLR2004 - three digits count


def _ms(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value / 1e3:.1f} s" if value >= 1e4 else f"{value:.3g} ms" if value < 1e3 else f"{value:.0f} ms"  # noqa: PLR2004


def _bytes(value: float | None) -> str:
    if value is None:
        return _NONE
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    unit = 0
    while value >= 1024 and unit < len(units) - 1:  # noqa: PLR2004
        value /= 1024
        unit += 1
    return f"{value:.0f} {units[unit]}" if unit == 0 else f"{value:.1f} {units[unit]}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((index for index, (size, _) in enumerate(parts) if size), len(parts) - 1)
    return " ".join(f"{size} {unit}" for size, unit in parts[first : first + 2])
