"""ONNX Runtime reports to its maker unless it is told not to before it starts; Axon tells it.

From 1.29 on it starts a thread, keeps a device id and a database below the user's home, and sends what it measured.
**Source:** measured with 1.31 and 1.32. `CI` and `ORT_RUNNING_UNIT_TESTS` suppress it too, and would hide a failure.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from serving import Ended, environment, run_axon, run_python, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Prints the names of the threads of a process that has loaded a model and asked it.
IN_PROCESS: Final = """
import sys
from pathlib import Path
import numpy as np
from axon import sync

with sync.InferenceServer.load(sys.argv[1]) as server:
    server.infer(np.ones((1, 64), np.float32))
    print(*(path.read_text() for path in Path("/proc/self/task").glob("*/comm")), sep="")
"""

#: Says how many threads Python and NumPy have by themselves.
WITHOUT: Final = """
from pathlib import Path
import numpy as np

print(*(path.read_text() for path in Path("/proc/self/task").glob("*/comm")), sep="")
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def watched(home: Path, **changes: str | None) -> dict[str, str]:
    """Return an environment in which nothing but Axon stands between ONNX Runtime and its maker.

    Should it report all the same, it finds a proxy that is not there: no test sends anything to anybody.
    """
    hidden = dict.fromkeys(("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY"))
    folders = dict.fromkeys(("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"))
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9")
    return environment(**{**hidden, **folders, **nowhere, "HOME": str(home), **changes})


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def threads(printed: str) -> list[str]:
    """Return the threads that are neither an instance's (`ax0-...`) nor another of Axon's."""
    return sorted(name for name in printed.split() if not name.startswith(("ax0-", "ax1-", "axon-")))


def inspect(digits: Path, env: Mapping[str, str]) -> None:
    assert run_axon("inspect", digits, env=env).returncode == 0


def load(digits: Path, env: Mapping[str, str]) -> None:
    end = run_python(IN_PROCESS, digits, env=env)
    assert end == Ended(0, end.stdout, "")
    assert threads(end.stdout) == threads(run_python(WITHOUT, env=env).stdout)


def serve(digits: Path, env: Mapping[str, str]) -> None:
    with serving(digits, env=env) as server:
        names = [path.read_text() for path in Path(f"/proc/{server.process.pid}/task").glob("*/comm")]
        assert threads("".join(names)) == ["axon"]


@pytest.mark.parametrize("use", [inspect, load, serve])
def test_nothing_is_kept_and_no_thread_reports(
    home: Path, digits: Path, use: Callable[[Path, Mapping[str, str]], None]
) -> None:
    use(digits, watched(home))
    # A server notes which models it has loaded for trial.
    assert [path for path in files(home) if path != ".cache" and not path.startswith(".cache/axon")] == []


def test_whoever_asks_for_telemetry_has_it_and_it_would_be_seen(home: Path, digits: Path) -> None:
    """The test above can fail: it sees the files and the thread."""
    env = watched(home, ORT_DISABLE_TELEMETRY="0")
    end = run_python(IN_PROCESS, digits, env=env)
    kept, running = files(home), threads(end.stdout)
    own = threads(run_python(WITHOUT, env=watched(home)).stdout)
    if not kept and running == own:
        pytest.skip("this ONNX Runtime does not report, even when it is asked to: nothing to tell apart")
    assert [path for path in kept if "onnxruntime" in path]
    assert len(running) > len(own)
