"""Writes the pictures of the page that docs/ has: a real server under load, seen by a headless Chromium.

Run from the project's folder by its environment's Python: `.venv/bin/python scripts/screenshots.py`. It takes a minute,
so that the heat map has something to show.
"""

from __future__ import annotations

import io
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

import httpx2
from PIL import Image

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browsing import browsing  # noqa: E402 - after the folder that it is in
from models import mlp, save  # noqa: E402
from serving import Server, serving  # noqa: E402

SEED: Final = 7
#: Seconds of load before the pictures are taken.
LOAD_S: Final = 60.0
#: File name, place in the page, width, height, colours, and what to scroll to.
PICTURES: Final = (
    ("page-overview", "", 1100, 760, "light", "header"),
    ("page-model", "#/models/digits/1", 1100, 900, "dark", "header"),
    ("page-slow", "#/models/digits/1", 1100, 900, "light", "#section-slow-requests"),
    ("page-phone", "", 390, 760, "light", "header"),
)


def ask(server: Server, model: str, rows: int, size: int) -> None:
    """Ask a model for an answer to rows of ones."""
    name = {"digits": "pixels", "ranker": "x"}[model]
    body = {"inputs": [{"name": name, "datatype": "FP32", "shape": [rows, size], "data": [1] * (rows * size)}]}
    httpx2.post(f"http://{server.address}/v2/models/{model}/infer", json=body).raise_for_status()


def load(server: Server, is_over: threading.Event, seed: int) -> None:
    """Ask both models at random until it is over."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    while not is_over.is_set():
        if chance.choice([True, True, True, False]):
            ask(server, "digits", chance.choice([1, 1, 1, 2, 8]), 64)
        else:
            ask(server, "ranker", chance.choice([1, 4]), 256)
        time.sleep(chance.expovariate(40.0))


def main() -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        save(mlp((256, 512, 512, 16)), Path(folder, "ranker.onnx"))
        Path(folder, "digits.onnx").write_bytes((ROOT / "examples/digits/digits.onnx").read_bytes())
        with serving(folder) as server:
            is_over = threading.Event()
            threads = [threading.Thread(target=load, args=(server, is_over, SEED + number)) for number in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(LOAD_S)
            try:
                take(server)
            finally:
                is_over.set()
                for thread in threads:
                    thread.join()


def take(server: Server) -> None:
    """Take each picture in a page of its own."""
    for name, place, width, height, scheme, scroll_to in PICTURES:
        with browsing() as page:
            page.open(f"http://{server.address}/{place}")
            page.show_on(width=width, height=height, scheme=scheme)
            page.wait_for("document.querySelector('canvas:not([hidden])') !== null")
            if place:
                page.wait_for("document.querySelector('form [type=submit]') !== null")
                page.ask("document.querySelector('form [type=submit]').click()")
                page.wait_for("document.querySelector('.answer pre') !== null")
            page.ask(f"document.querySelector('{scroll_to}').scrollIntoView()")
            picture = Image.open(io.BytesIO(page.picture())).convert("RGB")
            file = ROOT / "docs" / f"{name}.png"
            # A page has few colours, and a palette of them is a third of the size.
            picture.quantize(128).save(file, optimize=True)
            print(f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
