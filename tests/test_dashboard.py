"""The page at / in a real browser: what it shows and sends, by keyboard, on a phone, in the dark, with odd names."""

from __future__ import annotations

import json
import shutil
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import models
import numpy as np
import onnx
import pytest
from browsing import CHROMIUM, Page, browsing
from onnx import TensorProto, helper
from PIL import Image
from serving import PATIENCE_S, Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed")

#: The table of models has a row.
LISTED: Final = "document.querySelector('tbody tr a') !== null"
#: The form has been made.
FORM: Final = "document.querySelector('form [type=submit]') !== null"
#: What the form's answer shows.
ANSWER: Final = "document.querySelector('.answer')"


def mean_colour(datatype: str, shape: list[int | str]) -> onnx.ModelProto:
    """`image` -> `mean`, the mean of each channel; channels are the dimension of 3."""
    element = models.DATATYPES[datatype]
    image = helper.make_tensor_value_info("image", element, shape)
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, [shape[0], 3])
    axes = [axis for axis in (1, 2, 3) if shape[axis] != 3]
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["mean"], axes=axes, keepdims=0),
    ]
    graph = helper.make_graph(nodes, "mean_colour", [image], [mean])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """Return a repository: digits, two models that take images, one whose shape is open, one that cannot be read."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(digits, folder)
    models.save(mean_colour("FP32", ["batch", 3, 16, 16]), folder / "first.onnx")
    models.save(mean_colour("UINT8", ["batch", "height", "width", 3]), folder / "last.onnx")
    models.save(models.identity("INT64", ["batch", 2]), folder / "echo.onnx")
    (folder / "broken.onnx").write_bytes(b"<b>no model</b>")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as server:
        yield server


@contextmanager
def dashboard(server: Server, place: str = "") -> Iterator[Page]:
    """Open the page, and assert that it had no problem when the `with` block ends."""
    with browsing() as page:
        page.open(f"http://{server.address}/{place}")
        page.wait_for(FORM if place else LISTED)
        yield page
        assert page.ask("blocked") == []
        assert page.problems == []


def post(server: Server, path: str, body: object) -> None:
    data = json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"http://{server.address}/{path}", data), timeout=PATIENCE_S):
        pass


@contextmanager
def load_on(server: Server) -> Iterator[None]:
    """Ask digits all the time, from two callers."""
    body = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64}]}
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            post(server, "v2/models/digits/infer", body)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def cell(page: Page, model: str, column: str) -> str:
    """Return a cell of the table of models."""
    row = f"[...document.querySelectorAll('tbody tr')].find((row) => row.innerText.includes({json.dumps(model)}))"
    return str(page.ask(f"{row}?.querySelector('[data-label=\"{column}\"]')?.textContent"))


def test_every_model_is_listed_with_its_state(server: Server) -> None:
    with dashboard(server) as page:
        assert page.ask("document.querySelectorAll('section table')[0].rows.length") == 6
        assert cell(page, "digits", "State") == "ready"
        assert cell(page, "digits", "Size").endswith("KiB")
        assert cell(page, "broken", "State").startswith("unavailable: ")
        assert page.wait_for("document.querySelector('#status').textContent").startswith("not ready: ")
        # The server has no limit of memory, and nobody may load or unload.
        assert page.ask("document.querySelector('#section-memory').parentElement.hidden")
        assert page.ask("document.querySelectorAll('button').length") == 0


def test_the_page_has_two_names(server: Server) -> None:
    with browsing() as page:
        page.open(f"http://{server.address}/dashboard")
        page.wait_for(LISTED)


def test_the_numbers_move_under_load(server: Server) -> None:
    with dashboard(server) as page, load_on(server):
        rate = f"Number({figure(1)}.replaceAll(',', ''))"
        page.wait_for(f"{rate} > 1")
        before = page.ask(rate)
        page.wait_for(f"{rate} !== {before}")
        assert float(cell(page, "digits", "Rows a batch")) >= 1
        assert cell(page, "echo", "Requests/s") == "0.00"
        page.wait_for(f"{figure(2)}.endsWith('s') && {figure(3)}.endsWith('s')")
        assert cell(page, "digits", "p99").endswith("s")
        assert cell(page, "echo", "p99") == "\N{EN DASH}"


def figure(number: int) -> str:
    return f"document.querySelectorAll('.figures dd')[{number}].textContent"


def test_the_heat_map_is_drawn_and_can_be_read_without_seeing_it(server: Server) -> None:
    with dashboard(server) as page, load_on(server):
        page.wait_for("document.querySelector('canvas:not([hidden])') !== null")
        canvas = "document.querySelector('canvas')"
        drawn = f"{canvas}.getContext('2d').getImageData(64, 0, 890, 210).data.some((value) => value > 0)"
        page.wait_for(drawn)
        assert "minutes: " in page.ask(f"{canvas}.getAttribute('aria-label')")
        page.ask(f"{canvas}.focus()")
        told = f"{canvas}.nextElementSibling.textContent"
        assert page.ask(told).startswith("Darker where")
        page.press("ArrowLeft", 37)
        newest = page.ask(told)
        assert " requests · p50" in newest or "0 requests" in newest
        page.press("Home", 36)
        assert "0 requests" in page.ask(told)
        page.ask("document.querySelector('canvas ~ details').open = true")
        page.wait_for("document.querySelectorAll('canvas ~ details tbody tr').length === 60")
        page.wait_for("document.querySelector('canvas ~ details').innerText.includes('p99 ≤')")


def test_a_model_shows_what_it_takes_and_what_was_learned(server: Server) -> None:
    with dashboard(server, "#/models/digits/1") as page:
        post(server, "v2/models/digits/generate", {"pixels": [1] * 64})
        # What was learned comes after what it takes.
        for expected in ("digits version 1", "0 of ", "pixels", "FP32", "[?, 64]", "label", "INT64", "Because"):
            page.wait_for(f"document.querySelector('main').innerText.includes({json.dumps(expected)})")
        page.wait_for("document.querySelector('.curve polyline') !== null")
        drawn = page.ask("document.querySelector('.curve').getAttribute('aria-label')")
        assert "A run of n rows takes" in drawn
        assert page.ask("document.querySelectorAll('.curve circle').length") >= 1
        # Where the time of the slowest went: as many stages as columns.
        page.wait_for("document.querySelectorAll('.stages rect').length >= 5")
        assert page.ask("document.title").startswith("digits ")


def send(page: Page) -> str:
    """Press the button and return what came of it, once that is more than `Sent.`."""
    page.ask(f"{ANSWER}.replaceChildren()")
    page.ask("document.querySelector('form [type=submit]').click()")
    return str(page.wait_for(f"{ANSWER}.textContent.length > 8 && {ANSWER}.innerText"))


def output(page: Page, name: str) -> list[float]:
    text = page.ask(f"document.querySelector('[data-output={json.dumps(name)}]').textContent")
    return list(json.loads(f"[{text}]"))


def test_the_form_gives_the_right_answer_and_its_timings(server: Server, digits: Path) -> None:
    images = np.load(digits.with_name("images.npy"))
    expected = np.load(digits.with_name("predictions.npy"))
    with dashboard(server, "#/models/digits/1") as page:
        for image, label in zip(images[:5], expected[:5], strict=True):
            pixels = json.dumps([float(value) for value in image.ravel()])
            page.ask(f"document.querySelector('form textarea').value = {json.dumps(pixels)}")
            told = send(page)
            assert output(page, "label") == [int(label)]
            assert "answered in " in told
            assert "1 row in the run" in told
            assert f"Largest of the first row: {label}: " in told


def test_random_values_fit_and_can_be_had_again(server: Server) -> None:
    with dashboard(server, "#/models/digits/1") as page:
        first = page.ask("document.querySelector('form textarea').value")
        assert len(json.loads(first)) == 64
        assert "answered in " in send(page)
        page.ask("document.querySelector('form [type=button]').click()")
        assert page.ask("document.querySelector('form textarea').value") != first
        # More rows make more values, and too many of them are made unseen and sent as bytes.
        size = "document.querySelector('form [type=number]')"
        page.ask(f"{size}.value = 3; {size}.dispatchEvent(new Event('change'))")
        assert len(json.loads(page.ask("document.querySelector('form textarea').value"))) == 192
        page.ask(f"{size}.value = 100; {size}.dispatchEvent(new Event('change'))")
        assert page.ask("document.querySelector('form select').value") == "random"
        send(page)
        assert len(output(page, "label")) == 100


def test_whole_numbers_go_and_come_exactly(server: Server) -> None:
    with dashboard(server, "#/models/echo/1") as page:
        page.ask("document.querySelector('form textarea').value = '[9223372036854775807, -9007199254740993]'")
        told = send(page)
        assert "9223372036854775807" in told
        assert "-9007199254740993" in told


@pytest.mark.parametrize(("model", "sides"), [("first", None), ("last", 12)])
def test_an_image_can_be_sent(server: Server, tmp_path: Path, model: str, sides: int | None) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), (255, 51, 0)).save(picture)
    with dashboard(server, f"#/models/{model}/1") as page:
        source = "document.querySelector('form select')"
        assert page.ask(f"[...{source}.options].map((option) => option.value)") == ["JSON", "image", "random"]
        page.ask(f"{source}.value = 'image'; {source}.dispatchEvent(new Event('change'))")
        assert "choose an image" in send(page)
        for index in (1, 2) if sides else ():
            page.ask(f"document.querySelectorAll('form [type=number]')[{index}].value = {sides}")
        page.choose_file("form [type=file]", picture)
        send(page)
        scale = 1 if sides else 255
        np.testing.assert_allclose(output(page, "mean"), np.array([255, 51, 0]) / scale, atol=1e-3)


def test_a_refusal_is_told(server: Server) -> None:
    with dashboard(server, "#/models/digits/1") as page:
        page.ask("document.querySelector('form textarea').value = '[1, 2]'")
        assert send(page).startswith("400 INVALID_ARGUMENT: inputs[0]")
        page.ask("document.querySelector('form textarea').value = '[1, '")
        assert send(page).startswith("pixels: ")
        # The browser itself notes every answer that is no success.
        page.problems.clear()


def test_keys_are_enough(server: Server) -> None:
    with dashboard(server) as page:
        page.press("Tab", 9)
        assert page.ask("document.activeElement.className") == "skip"
        page.press("Enter", 13, "\r")
        assert page.ask("document.activeElement.id") == "view"
        page.press("Tab", 9)
        assert page.ask("document.activeElement.tagName") == "A"
        name = page.ask("document.activeElement.textContent")
        # The figures are renewed each second; the focus stays where it is.
        page.wait_for(
            "performance.getEntriesByType('resource').filter(({ name }) => name.includes('overview')).length > 3"
        )
        assert page.ask("document.activeElement.textContent") == name
        page.press("Enter", 13, "\r")
        page.wait_for("location.hash.startsWith('#/models/')")
        assert page.ask("document.activeElement.id") == "view"
    with dashboard(server, "#/models/digits/1") as page:
        named = "[...document.querySelectorAll('input, textarea, select')].every((field) => field.labels.length === 1)"
        assert page.ask(named)
        page.ask("document.querySelector('form textarea').focus()")
        for expected in ("Send", "Other random values"):
            page.press("Tab", 9)
            assert page.ask("document.activeElement.textContent") == expected


@pytest.mark.parametrize("width", [320, 480, 1400])
def test_it_fits_the_screen(server: Server, width: int) -> None:
    for place in ("", "#/models/last/1", "#/models/digits/1"):
        with dashboard(server, place) as page:
            page.show_on(width=width)
            page.ask("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
            assert page.ask("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable(server: Server, scheme: str) -> None:
    with dashboard(server) as page:
        page.show_on(width=1000, scheme=scheme)
        assert (page.luminance("body", "backgroundColor") < 0.1) == (scheme == "dark")
        for selector in ("body", ".quiet", "td a", "td.good", "td.bad", "th", "dt", "#status"):
            page.assert_readable(selector, "body", ".figures > div")


def test_names_and_errors_never_become_markup(tmp_path: Path) -> None:
    name = "<img src=x onerror=blocked.push(1)>"
    shape: list[str | int | None] = ["<b>batch</b>", 2]
    info = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    gives = helper.make_tensor_value_info("<b>out</b>", TensorProto.FLOAT, shape)

    def save(operation: str, domain: str, file: str) -> None:
        node = helper.make_node(operation, [name], ["<b>out</b>"], domain=domain)
        graph = helper.make_graph([node], "g", [info], [gives])
        opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / file)

    save("Identity", "", "odd.onnx")
    save("<img src=x onerror=blocked.push(2)>", "custom", "worse.onnx")
    nothing = "document.querySelectorAll('img, b').length"
    with serving(tmp_path) as server:
        with dashboard(server) as page:
            assert "<img src=x" in cell(page, "worse", "State")
            assert page.ask(nothing) == 0
        with dashboard(server, "#/models/odd/1") as page:
            assert name in page.ask("document.querySelector('main').innerText")
            assert "<b>out</b>" in send(page)
            page.ask("document.querySelector('form textarea').value = '[\"<b>x</b>\", 1]'")
            assert "400" in send(page)
            assert page.ask(nothing) == 0
            page.problems.clear()
        with browsing() as page:
            page.open(f"http://{server.address}/#/models/<img src=x onerror=blocked.push(3)>/1")
            page.wait_for("document.querySelector('main h2')?.textContent.includes('<img')")
            page.wait_for("document.querySelector('.facts')?.textContent.includes('no such version is loaded')")
            page.open(f"http://{server.address}/#/models/%E0%A4%A/1")
            page.wait_for("document.querySelector('main').textContent.includes('The address names no model')")
            assert (page.ask(nothing), page.ask("blocked")) == (0, [])


def test_models_are_loaded_and_unloaded_where_that_is_allowed(folder: Path) -> None:
    options = ("--model-control-mode", "explicit", "--load-model", "digits")
    with serving(folder, *options) as server, dashboard(server) as page:
        load = "document.querySelector('button[aria-label=\"Load {}\"]')"
        page.wait_for(f"{load.format('echo')} !== null")
        page.ask(f"{load.format('echo')}.click()")
        page.wait_for("[...document.querySelectorAll('td a')].some((link) => link.textContent === 'echo')")
        page.ask("location.hash = '#/models/digits/1'")
        unload = "document.querySelector('button[aria-label=\"Unload digits\"]')"
        page.wait_for(f"{unload} !== null && !{unload}.closest('[hidden]')")
        # Escape keeps the model.
        page.ask(f"{unload}.click()")
        page.wait_for("document.querySelector('dialog')?.open")
        page.press("Escape", 27)
        page.wait_for("document.querySelector('dialog') === null")
        page.ask(f"{unload}.click()")
        page.wait_for("document.querySelector('dialog')?.open")
        page.ask("document.querySelector('dialog [value=yes]').click()")
        page.wait_for("document.querySelector('.facts').textContent.includes('unavailable')")
        with pytest.raises(urllib.error.HTTPError):
            post(server, "v2/models/digits/generate", {"pixels": [0] * 64})
        page.problems.clear()


def test_what_is_kept_in_memory_is_shown_where_it_has_a_limit(server: Server) -> None:
    """The documents are made up: what is kept depends on a clock of hours."""
    row = {"state": "READY", "requests_per_second": 2.5, "reload_s": 1.5, "idle_s": 61.0, "reason": None}
    rows = [
        {**row, "name": "small", "bytes": 1 << 20, "score": 1e-7, "pinned": False, "state": "ABSENT"},
        {**row, "name": "large", "bytes": 3 << 20, "score": 4e-5, "pinned": True},
    ]
    residency = {"budget_bytes": 4 << 20, "charged_bytes": 3 << 20, "evictions": 5, "models": rows}
    replace = f"""
        const real = fetch;
        window.fetch = async (url, options) => {{
          if (String(url).endsWith("/v2/residency")) return new Response(JSON.stringify({json.dumps(residency)}));
          const answer = await real(url, options);
          if (!String(url).endsWith("/v2/axon/overview")) return answer;
          const overview = await answer.json();
          overview.server.control = "auto";
          return new Response(JSON.stringify(overview));
        }};"""
    with browsing() as page:
        page.call("Page.addScriptToEvaluateOnNewDocument", source=replace)
        page.open(f"http://{server.address}/")
        block = "document.querySelector('#section-memory').parentElement"
        page.wait_for(f"{LISTED} && !{block}.hidden")
        assert "3.00 MiB of 4.00 MiB are used. Models were evicted 5 times." in page.ask(f"{block}.innerText")
        # What is loaded comes first.
        names = page.ask(f"[...{block}.querySelectorAll('tbody tr')].map((row) => row.cells[0].textContent)")
        assert names == ["large", "small"]
        assert "ready, pinned" in page.ask(f"{block}.innerText")
        buttons = page.ask(f"[...{block}.querySelectorAll('button')].map((button) => button.ariaLabel)")
        assert buttons == ["Load now large", "Unpin large", "Load now small", "Pin small"]
        assert page.problems == []


def test_a_server_that_is_gone_is_told(digits: Path) -> None:
    with serving(digits) as server, browsing() as page:
        page.open(f"http://{server.address}/")
        page.wait_for(LISTED)
        server.stop()
        page.wait_for("document.querySelector('#status').textContent.startsWith('No answer')")
        # What was known last is still there.
        assert page.ask(LISTED)
