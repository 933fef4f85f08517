"""Every line of docs/http.md does what it shows: each is run as it stands, and what it prints is compared.

A section's lines run in order against a server of its own, started by the `axon serve` line before them. Spaces and
line breaks do not count, so that answers can be laid out for readers; `…` stands for any text. The port is a free one.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import urllib.request
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from serving import serving
from test_readme import PRINTED, sh

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENT: Final = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")


class Line(NamedTuple):
    """A command and what the document shows that it prints."""

    command: str
    shown: str


class Section(NamedTuple):
    """The lines between two headings that talk to one server."""

    title: str
    server: str
    lines: list[Line]


def split(line: str) -> Line:
    """Part a command, which goes on while a quote is open or a line ends in a backslash, from what it prints."""
    words, *rest = line.splitlines(keepends=True)
    while is_open(words) and rest:
        words += rest.pop(0)
    return Line(words.strip(), "".join(rest))


def is_open(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return True
    return command.endswith("\\\n")


def sections(document: str) -> list[Section]:
    """Read the sections of a document; a server goes on into the next section, where it is started afresh."""
    found: list[Section] = []
    server = ""
    for part in re.split(r"^## ", document, flags=re.MULTILINE):
        title = part.partition("\n")[0]
        found.append(Section(title, server, []))
        blocks = re.findall(r"^```console\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        for line in (line for block in blocks for line in re.split(r"^\$ ", block, flags=re.MULTILINE) if line):
            command, shown = split(line)
            if command.startswith("axon serve"):
                server = command
                found.append(Section(title, server, []))
            else:
                found[-1].lines.append(Line(command, shown))
    return [section for section in found if section.lines]


SECTIONS: Final = sections(DOCUMENT)


def matches(shown: str, printed: str) -> bool:
    """Tell whether what is printed is what is shown: the same JSON, or the same text but for spaces and any for `…`."""
    with contextlib.suppress(json.JSONDecodeError):
        if json.loads(shown) == json.loads(printed):
            return True
    pieces = ["".join(piece.split()) for piece in shown.split("…")]
    return re.fullmatch(".*".join(map(re.escape, pieces)), "".join(printed.split()), re.DOTALL) is not None


@pytest.fixture
def scratch(tmp_path: Path, digits: Path) -> Path:
    """Return a folder with the files that the document names."""
    shutil.copytree(digits.parent, tmp_path / "examples" / "digits")
    return tmp_path


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: f"{section.title}, {section.server}")
def test_every_line_prints_what_is_shown(scratch: Path, section: Section) -> None:
    _, _, path, *options = shlex.split(section.server)
    with serving(path, *options, cwd=scratch) as server:
        for command, shown in section.lines:
            printed = sh(command.replace(PRINTED, server.address), scratch)
            assert matches(shown, printed), f"{command}\nprinted {printed}\nbut the document shows {shown}"


def test_no_block_is_left_out() -> None:
    assert set(re.findall(r"^```(.*)$", DOCUMENT, re.MULTILINE)) == {"console", ""}
    commands = [line.command for section in SECTIONS for line in section.lines]
    servers = set(re.findall(r"^\$ (axon serve.*)$", DOCUMENT, re.MULTILINE))
    assert len(commands) + len(servers) == len(re.findall(r"^\$ ", DOCUMENT, re.MULTILINE))
    assert {section.server for section in SECTIONS} == servers
    assert all(section.server for section in SECTIONS)


def test_every_path_of_the_openapi_document_is_shown(digits: Path) -> None:
    with serving(digits) as server:
        with urllib.request.urlopen(f"http://{server.address}/openapi.json") as response:
            paths = json.load(response)["paths"]
        shown = re.findall(rf"{re.escape(PRINTED)}(/[^\s'\"]+)", DOCUMENT)
        general = [path for path in paths if not path.startswith(("/v2/models/digits", "/v2/models/{model}/versions"))]
        # GPU memory has the verbs of system memory, and what is said of them holds for it.
        general = [path for path in general if not path.startswith("/v2/cudasharedmemory")]
        hidden = [
            path
            for path in general
            if not any(re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)), one) for one in shown)
        ]
        assert len(general) > 20
        assert hidden == []


@pytest.mark.parametrize(
    ("shown", "printed", "is_the_same"),
    [
        ('{"a": 1}', '{"a":1}\n', True),
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', True),
        ('{"a": 1}', '{"a":2}', False),
        ('{"a": […]}', '{"a":[1,2]}', True),
        ('{"a": […]}', '{"b":[1,2]}', False),
        ('{"a": "…b"}', '{"a":"a b"}', True),
        ("200", "200\n", True),
        ("200", "2000", False),
        ("…", "{}", True),
        ("", "anything", False),
        ("a.c", "abc", False),
    ],
)
def test_what_is_shown_is_compared(shown: str, printed: str, *, is_the_same: bool) -> None:
    assert matches(shown, printed) is is_the_same


def test_a_command_ends_where_the_shell_would_run_it() -> None:
    assert split("curl -d '\n  {}' x\n{}\n{}\n") == ("curl -d '\n  {}' x", "{}\n{}\n")
    assert split("curl \\\n  x\n200\n") == ("curl \\\n  x", "200\n")
    assert split("curl x\n") == ("curl x", "")
