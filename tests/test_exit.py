"""A program that uses Axon ends as any other does: with its own exit code, and without a word on standard error.

ONNX Runtime's clean-up runs after the interpreter's end; threads that still run a model then read what is gone (the
exit hazard). B-130: no call hangs, whenever the interpreter ends.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

import models
import numpy as np
import pytest
from axon import InferenceServer, ServerError, sync
from serving import Ended, run_python

if TYPE_CHECKING:
    from pathlib import Path

REPEATS: Final = 20
IMAGE: Final = np.ones((1, 64), np.float32)

#: Before each program: `blocking`, an open server of a model that takes about 1 ms a row, `waiting`, the same for
#: asyncio, and `BUSY`, 300 rows for it.
PRELUDE: Final = """
import atexit, asyncio, os, signal, sys, threading, time
import numpy as np
import axon
from axon import sync

signal.signal(signal.SIGINT, signal.default_int_handler)  # also below a shell that ignores it for what it starts
config = axon.ModelConfig(batching=False, instances=2)
blocking = sync.InferenceServer.load(sys.argv[1], config=config)
waiting = axon.InferenceServer(blocking._native)
LINE = np.ones((1, 256), np.float32)
BUSY = np.ones((300, 256), np.float32)

def told(action):
    try:
        print(len(action()["y"]), flush=True)
    except axon.AxonError as error:
        print(type(error).__name__, flush=True)

def interrupt():
    blocking.infer(LINE)
    os.kill(os.getpid(), signal.SIGINT)

def interrupt_in_call():
    main = threading.main_thread().ident
    while sys._current_frames()[main].f_code.co_name != "infer":
        time.sleep(0)
    interrupt()

async def interrupted():
    task = asyncio.create_task(waiting.infer(BUSY))
    await asyncio.sleep(0)
    threading.Thread(target=interrupt).start()
    await task
"""

#: By what they show: the program, its exit code, and what it prints.
PROGRAMS: Final = {
    "a server is left open": ("told(lambda: blocking.infer(LINE))", 0, "1\n"),
    "an asyncio server is left open": ("told(lambda: asyncio.run(waiting.infer(LINE)))", 0, "1\n"),
    "a server was never asked": ("", 0, ""),
    "a server was closed": ("blocking.close()", 0, ""),
    "the program has a code of its own": ("blocking.infer(LINE); sys.exit(7)", 7, ""),
    "several servers are left open": (
        "more = [sync.InferenceServer.load(sys.argv[1]) for _ in range(3)]; told(lambda: more[2].infer(LINE))",
        0,
        "1\n",
    ),
    "a server is part of a cycle": ("cycle = [blocking]; cycle.append(cycle); blocking.infer(LINE)", 0, ""),
    "an output outlives everything": ("sys.last_value = blocking.infer(LINE)", 0, ""),
    "a thread that is waited for still asks": (
        "threading.Thread(target=lambda: told(lambda: blocking.infer(BUSY))).start()",
        0,
        "300\n",
    ),
    "what was registered after axon asks at exit, and what was before it in vain": (
        """
atexit.unregister(axon._axon.close_all)
atexit.register(lambda: told(lambda: blocking.infer(LINE)))
atexit.register(axon._axon.close_all)
atexit.register(lambda: told(lambda: blocking.infer(LINE)))
""",
        0,
        "1\nServerError\n",
    ),
    "the request of a cancelled coroutine still runs": (
        """
async def main():
    try:
        await asyncio.wait_for(waiting.infer(BUSY), 0.01)
    except TimeoutError:
        print("late")
asyncio.run(main())
""",
        0,
        "late\n",
    ),
    "the blocking call is interrupted": (
        """
try:
    threading.Thread(target=interrupt_in_call).start()
    blocking.infer(BUSY)
except KeyboardInterrupt:
    print("interrupted", len(blocking.infer(LINE)["y"]))
""",
        0,
        "interrupted 1\n",
    ),
    "the waiting coroutine is interrupted": (
        """
try:
    asyncio.run(interrupted())
except KeyboardInterrupt:
    print("interrupted", len(blocking.infer(LINE)["y"]))
""",
        0,
        "interrupted 1\n",
    ),
}

#: Programs that end while the requests of daemon threads wait and run. The threads take turns as often as they can:
#: Python up to 3.13 ends a daemon thread by unwinding it where it next waits for its turn, and aborts the process
#: when native code below it catches that.
RUNNING: Final = {
    "blocking": """
sys.setswitchinterval(1e-6)
started = threading.Barrier(3)

def ask_for_ever():
    blocking.infer(LINE)
    started.wait()
    while True:
        try:
            blocking.infer(np.ones((3, 256), np.float32))
        except axon.ServerError:
            pass

for _ in range(2):
    threading.Thread(target=ask_for_ever, daemon=True).start()
started.wait()
print("end")
""",
    "asyncio": """
sys.setswitchinterval(1e-6)
started = threading.Event()

async def ask_for_ever():
    await waiting.infer(LINE)
    started.set()
    while True:
        requests = (waiting.infer(np.ones((3, 256), np.float32)) for _ in range(8))
        await asyncio.gather(*requests, return_exceptions=True)

threading.Thread(target=lambda: asyncio.run(ask_for_ever()), daemon=True).start()
started.wait()
print("end")
""",
}


#: A child that has its parent's server but none of its threads; it has a second.
FORK: Final = """
import asyncio, os, signal, sys
import numpy as np
import axon
from axon import sync

def told(kind, action):
    try:
        action()
    except axon.AxonError as error:
        print(f"{kind}:", type(error).__name__, "fork" in error.message, flush=True)

async def waiting():
    server = axon.InferenceServer(blocking._native)
    await server.infer(image)

image = np.ones((1, 64), np.float32)
blocking = sync.InferenceServer.load(sys.argv[1])
blocking.infer(image)
child = os.fork()
if child == 0:
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    told("blocking", lambda: blocking.infer(image))
    told("asyncio", lambda: asyncio.run(waiting()))
    print("ready:", blocking.is_ready(), flush=True)
    with sync.InferenceServer.load(sys.argv[1]) as own:
        print("its own:", len(own.infer(image)["label"]), flush=True)
    sys.exit()
print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
print("parent:", len(blocking.infer(image)["label"]), flush=True)
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(models.slow(1), tmp_path_factory.mktemp("exit") / "slow.onnx")


@pytest.mark.parametrize("shows", PROGRAMS)
def test_a_program_ends_well_when(slow: Path, shows: str) -> None:
    program, code, printed = PROGRAMS[shows]
    assert run_python(PRELUDE + program, slow) == Ended(code, printed, "")


@pytest.mark.parametrize("kind", RUNNING)
def test_a_program_may_end_while_threads_ask(slow: Path, kind: str) -> None:
    ends = [run_python(PRELUDE + RUNNING[kind], slow) for _ in range(REPEATS)]
    assert ends == [Ended(0, "end\n", "")] * REPEATS


@pytest.mark.parametrize(
    ("program", "code", "last"),
    [
        ("blocking.infer(LINE); raise ValueError('its own')", 1, "ValueError: its own"),
        ("blocking.infer(LINE[:, :3])", 1, "axon.errors.InvalidRequest: inputs[0].shape[1]: expected 256, got 3; "),
        (
            "threading.Thread(target=interrupt_in_call).start(); blocking.infer(BUSY)",
            -signal.SIGINT,
            "KeyboardInterrupt",
        ),
        ("asyncio.run(interrupted())", -signal.SIGINT, "KeyboardInterrupt"),
    ],
)
def test_an_exception_that_nobody_catches_is_all_that_is_written(
    slow: Path, program: str, code: int, last: str
) -> None:
    end = run_python(PRELUDE + program, slow)
    assert (end.returncode, end.stdout) == (code, "")
    lines = end.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith(last)


def test_an_exception_at_the_end_is_the_programs_own(slow: Path) -> None:
    end = run_python(PRELUDE + "atexit.register(lambda: 1 // 0); blocking.infer(LINE)", slow)
    assert end.returncode == 0
    assert end.stderr.splitlines()[-1].startswith("ZeroDivisionError")


def test_importing_warns_of_nothing_and_loads_neither_numpy_nor_a_second_runtime() -> None:
    program = """
import sys
import axon, axon.cli
print(sorted({"numpy", "onnxruntime", "rich", "asyncio"} & set(sys.modules)))
"""
    assert run_python(program, flags=["-W", "error"]) == Ended(0, "[]\n", "")


def test_a_server_never_imports_the_runtimes_package(slow: Path) -> None:
    """It would be a second copy of the runtime, with telemetry of its own."""
    program = PRELUDE + "blocking.infer(LINE); blocking.report(); print('onnxruntime' in sys.modules)"
    assert run_python(program, slow, flags=["-W", "error"]) == Ended(0, "False\n", "")


# Closed and forked, while the program goes on.


def test_a_closed_server_says_so_and_closes_again(digits: Path) -> None:
    """B-130."""

    async def closed() -> None:
        async with await InferenceServer.load(digits) as server:
            await server.infer(IMAGE)
        assert not server.is_ready()
        with pytest.raises(ServerError):
            await server.infer(IMAGE)
        await server.close()

    asyncio.run(closed())
    with sync.InferenceServer.load(digits) as server:
        server.infer(IMAGE)
    assert not server.is_ready()
    with pytest.raises(ServerError):
        server.infer(IMAGE)
    server.close()


def test_close_answers_what_was_accepted(slow: Path) -> None:
    async def closed() -> list[int]:
        server = await InferenceServer.load(slow)
        tasks = [asyncio.create_task(server.infer(np.ones((rows, 256), np.float32))) for rows in (200, 1, 2)]
        await asyncio.sleep(0)
        await server.close()
        return [len(answer["y"]) for answer in await asyncio.gather(*tasks)]

    assert asyncio.run(closed()) == [200, 1, 2]


def test_a_forked_child_is_told_at_once_and_can_load_its_own(digits: Path) -> None:
    """B-130. SIGALRM ends the child after the second that it has."""
    end = run_python(FORK, digits, flags=["-W", "ignore::DeprecationWarning"])
    said = [
        "blocking: ServerError True",
        "asyncio: ServerError True",
        "ready: False",
        "its own: 1",
        "child: 0",
        "parent: 1",
    ]
    assert (end.stdout.splitlines(), end.stderr, end.returncode) == (said, "", 0)


def test_a_forked_child_that_asks_nothing_ends_as_any_other(digits: Path) -> None:
    """B-130, as a worker of a pool that was started by fork."""
    end = run_python(FORK.replace("if child == 0:", "if child == 0:\n    sys.exit()"), digits)
    assert end == Ended(0, "child: 0\nparent: 1\n", "")


def test_a_signal_handler_may_ask_while_its_thread_waits(slow: Path) -> None:
    """B-130. The handler runs in the main thread, which waits for the long request."""
    program = """
signal.signal(signal.SIGINT, lambda *_: told(lambda: blocking.infer(LINE)))
threading.Thread(target=interrupt_in_call).start()
told(lambda: blocking.infer(BUSY))
"""
    assert run_python(PRELUDE + program, slow) == Ended(0, "1\n300\n", "")
