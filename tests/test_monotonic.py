"""Nothing that decides when a request runs looks at the wall clock, so that one that jumps changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

ENGINE: Final = Path(__file__).parents[1] / "crates" / "axon" / "src"
WALL: Final = ("SystemTime", "UNIX_EPOCH")


@pytest.mark.parametrize("module", ["batcher", "lanes", "residency", "scheduler", "sequence", "simulation", "stop"])
def test_a_deadline_is_of_the_monotonic_clock(module: str) -> None:
    files = [ENGINE / f"{module}.rs", *(ENGINE / module).rglob("*.rs")]
    texts = {str(file.relative_to(ENGINE)): file.read_text(encoding="utf-8") for file in files}
    assert any("Instant" in text or module == "stop" for text in texts.values()), "the module has moved"
    assert [name for name, text in texts.items() if any(word in text for word in WALL)] == []
