"""deploy/: each query is about what a real server tells, the rules are valid and fire, and each alert has a remedy."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import sys
from collections import defaultdict
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx2
import pytest
import yaml
from authority import Authority
from prometheus_client.parser import text_string_to_metric_families
from serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parent.parent
DEPLOY: Final = ROOT / "deploy"
RULES: Final = DEPLOY / "prometheus" / "axon.rules.yml"
DASHBOARD: Final = DEPLOY / "grafana" / "axon.json"
#: Where the set-up puts it, or wherever it is.
PROMTOOL: Final = shutil.which("promtool", path=str(Path(sys.executable).parent)) or shutil.which("promtool")

#: What Prometheus adds to every series, and the one that it makes itself.
ADDED: Final = frozenset({"instance", "job"})
MADE: Final = {"up": ADDED}

_TOKEN: Final = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<range>\[[^\]]*\])|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"""
    r"""|(?P<number>[0-9.]+[a-z]*)|(?P<sign>[(){},]|=~|!~|[=!<>]=|[-+*/%^=<>])|(?P<space>\s+)""",
)
_GROUPING: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS: Final = _GROUPING | {"and", "or", "unless", "bool", "offset"}


def tokens(query: str) -> list[tuple[str, str]]:
    """Split a query into tokens, each with its kind, and an empty one at the end.

    Raises:
        ValueError: Something is in the query that is none of PromQL's tokens.
    """
    found, at = [], 0
    while at < len(query):
        token = _TOKEN.match(query, at)
        if token is None:
            raise ValueError(f"{query[at:]!r} in {query!r}")
        at = token.end()
        if token.lastgroup != "space":
            found.append((str(token.lastgroup), token[0]))
    return [*found, ("end", "")]


def used(query: str) -> tuple[dict[str, set[str]], set[str]]:
    """Return the labels that a query matches by metric, and the labels that it groups by."""
    metrics: dict[str, set[str]] = defaultdict(set)
    groups: set[str] = set()
    metric, is_matching, is_grouping = "", False, False
    for (kind, text), (_, following) in pairwise(tokens(query)):
        if text == "{":
            is_matching = True
        elif text in {"}", ")"}:
            is_matching = is_grouping = False
        elif text in _GROUPING:
            is_grouping = True
        elif kind == "name" and is_matching:
            metrics[metric].add(text)
        elif kind == "name" and is_grouping:
            groups.add(text)
        elif kind == "name" and text not in _WORDS and following not in {"(", "by", "without"}:
            metric = text
            metrics[metric] |= set()
    return dict(metrics), groups


def problems(query: str, told: dict[str, frozenset[str]]) -> list[str]:
    """Say what a query names that is not told."""
    metrics, groups = used(query)
    unknown = [f"{metric} is no metric" for metric in metrics if metric not in told]
    wrong = [
        f"{metric} has no label {label}"
        for metric, labels in metrics.items()
        for label in sorted(labels - told.get(metric, labels))
    ]
    there = frozenset[str]().union(*(told.get(metric, frozenset()) for metric in metrics))
    return [*unknown, *wrong, *(f"no metric has the label {label}" for label in sorted(groups - there))]


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


ALERTS: Final = [rule for rule in rules() if "alert" in rule]


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def queries() -> list[str]:
    """Return every query of the dashboard as Prometheus gets it."""
    exprs = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    return [re.sub(r"\$\w+", ".*", expr.replace("$__rate_interval", "5m")) for expr in exprs]


def variables() -> dict[str, str]:
    """Return the query of each of the dashboard's variables."""
    listed = json.loads(DASHBOARD.read_text(encoding="utf-8"))["templating"]["list"]
    return {variable["name"]: variable["definition"] for variable in listed if variable["type"] == "query"}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> dict[str, frozenset[str]]:
    """Return the labels of each sample that a server tells that has answered, refused and failed to load something.

    One of them speaks TLS.
    """
    authority = Authority(tmp_path_factory.mktemp("authority"), "ca")
    certificate, key = authority.sign("server")
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(digits, folder)
    (folder / "broken.onnx").write_bytes(b"no model")
    with serving(folder) as server:
        base = f"http://{server.address}"
        for pixels, status in ([1] * 64, 200), ([1], 400):
            answer = httpx2.post(f"{base}/v2/models/digits/generate", json={"pixels": pixels})
            assert answer.status_code == status
        texts = [httpx2.get(f"{base}/metrics").raise_for_status().text]
    tls = ["--tls-cert", str(certificate), "--tls-key", str(key)]
    with (
        serving(folder, "--model-control-mode", "auto", *tls) as server,
        httpx2.Client(verify=ssl.create_default_context(cafile=authority.file)) as client,
    ):
        base = f"https://{server.address}"
        client.post(f"{base}/v2/models/digits/generate", json={"pixels": [1] * 64}).raise_for_status()
        texts.append(client.get(f"{base}/metrics").raise_for_status().text)
    labels: dict[str, set[str]] = defaultdict(lambda: set(ADDED))
    for family in chain.from_iterable(map(text_string_to_metric_families, texts)):
        for sample in family.samples:
            labels[sample.name] |= set(sample.labels)
    return {**{name: frozenset(names) for name, names in labels.items()}, **MADE}


def test_every_query_is_about_what_a_server_tells(told: dict[str, frozenset[str]]) -> None:
    recorded = dict(told)
    for rule in rules():
        assert problems(rule["expr"], recorded) == [], rule
        if "record" in rule:
            recorded[rule["record"]] = frozenset(used(rule["expr"])[1])
    for query in queries():
        assert problems(query, told) == [], query
    for definition in variables().values():
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", definition)
        assert found, definition
        assert found[2] in told[found[1]], definition
    assert len(queries()) > 25


def test_a_wrong_query_would_be_found(told: dict[str, frozenset[str]]) -> None:
    assert problems('rate(axon_nothing_total{model="m"}[5m])', told) == ["axon_nothing_total is no metric"]
    assert problems('axon_ready{model="m"}', told) == ["axon_ready has no label model"]
    assert problems("sum by (reason) (axon_ready)", told) == ["no metric has the label reason"]
    with pytest.raises(ValueError, match=r"\$model"):
        used('axon_ready{instance=~"a"} $model')


def test_the_dashboard_hangs_together() -> None:
    names = {"datasource", *variables(), "__rate_interval"}
    numbers = [panel["id"] for panel in panels()]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        for target in panel.get("targets", []):
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) <= names
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert labels <= used(re.sub(r"\$\w+", "x", target["expr"]))[1] | {"instance", "model", "version"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def promtool(*arguments: str | Path) -> str:
    assert PROMTOOL is not None
    command = [PROMTOOL, *map(str, arguments)]
    done = subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool")


@needs_promtool
def test_the_rules_are_valid_and_fire_when_they_should() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "config", "prometheus.yml")
    assert "SUCCESS" in promtool("test", "rules", "axon.test.yml")


def minutes(time: str) -> int:
    return int(time[:-1]) * {"m": 1, "h": 60, "d": 1440}[time[-1]]


def test_every_alert_is_tried_firing_and_over_again() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus" / "axon.test.yml").read_text(encoding="utf-8"))["tests"]
    fired, cleared = set(), set()
    for test in tests:
        tries = sorted(test.get("alert_rule_test", []), key=lambda tried: minutes(tried["eval_time"]))
        firing = set()
        for tried in tries:
            name = tried["alertname"]
            if tried.get("exp_alerts"):
                firing.add(name)
            elif name in firing:
                cleared.add(name)
        fired |= firing
    assert fired == cleared == {rule["alert"] for rule in ALERTS}


@needs_promtool
def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in promtool("check", "rules", file)


def test_every_alert_has_a_remedy() -> None:
    document = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    remedies = dict(re.findall(r"^### (Axon\w+)\n\n(.+?)(?=\n#|\Z)", document, re.MULTILINE | re.DOTALL))
    assert set(remedies) == {rule["alert"] for rule in ALERTS}
    assert all(len(text.split()) > 20 for text in remedies.values())
    for rule in ALERTS:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning"}
