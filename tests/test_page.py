"""The page at /docs, in a real browser: what it shows, what it sends, and how it looks on a phone and in the dark."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import pytest
from browsing import CHROMIUM, Page, browsing
from onnx import TensorProto, helper
from serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import SaveModel

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed")

#: The page has made its operations.
RENDERED: Final = "document.querySelector('details') !== null"


@pytest.fixture(scope="module")
def address(digits: Path) -> Iterator[str]:
    with serving(digits) as server:
        yield server.address


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    with browsing() as page:
        page.open(f"http://{address}/docs")
        page.wait_for(RENDERED)
        yield page


def text_of(page: Page, selector: str) -> str:
    return str(page.ask(f"document.querySelector({json.dumps(selector)}).innerText"))


def test_it_shows_the_models_operations_inputs_and_outputs(page: Page) -> None:
    assert page.ask("blocked") == []
    # The style sheet was let through.
    assert page.ask("getComputedStyle(document.querySelector('nav ul')).listStyleType") == "none"
    shown = text_of(page, "#infer_digits")
    for expected in ("/v2/models/digits/infer", "pixels FP32 [batch, 64]", '"pixels"', "label INT64", "probabilities"):
        assert expected in shown
    assert "INVALID_ARGUMENT" in shown
    paths = page.ask("[...document.querySelectorAll('.path')].map((path) => path.textContent)")
    document = page.ask("fetch('/openapi.json').then((response) => response.json())")
    operations = [path for path, item in document["paths"].items() for _ in item]
    assert sorted(paths) == sorted(operations)
    assert len(paths) > 30


def test_an_inference_can_be_tried(page: Page, digits: Path) -> None:
    area = "document.querySelector('#infer_digits textarea')"
    body: dict[str, Any] = json.loads(page.ask(f"{area}.value"))
    (pixels,) = body["inputs"]
    assert pixels == {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64}
    images = np.load(digits.with_name("images.npy"))
    pixels["data"] = [float(value) for value in images[0].ravel()]
    page.ask(f"{area}.value = {json.dumps(json.dumps(body))}")
    answer = send(page, "infer_digits")
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert outputs["label"] == [int(np.load(digits.with_name("predictions.npy"))[0])]
    assert text_of(page, "#infer_digits [role=status]").startswith("200 OK")


def test_a_flat_object_can_be_tried_as_it_is_filled_in(page: Page) -> None:
    page.ask("document.querySelector('#generate_digits').open = true")
    page.wait_for("document.querySelector('#generate_digits textarea') !== null")
    assert send(page, "generate_digits")["model_name"] == "digits"


def test_a_get_can_be_tried_with_what_goes_into_its_path(page: Page) -> None:
    page.ask("document.querySelector('#getModel').open = true")
    page.wait_for("document.querySelector('#getModel input') !== null")
    page.ask("document.querySelector('#getModel input').value = 'digits'")
    assert send(page, "getModel")["name"] == "digits"
    # A name cannot leave its place in the path, and a refusal is shown as one.
    page.ask("document.querySelector('#getModel input').value = '../../health/live?'")
    assert send(page, "getModel")["code"] == "INVALID_ARGUMENT"
    assert page.ask("document.querySelector('#getModel [role=status] .bad').textContent").startswith("400")


def test_what_changes_the_server_can_only_be_read(page: Page) -> None:
    for operation in ("unloadModel", "registerSystemRegion", "setLogSettings"):
        page.ask(f"document.querySelector('#{operation}').open = true")
        page.wait_for(f"document.querySelector('#{operation} h3') !== null")
        assert page.ask(f"document.querySelector('#{operation} form')") is None


def send(page: Page, operation: str) -> dict[str, Any]:
    """Press the operation's button and return the answer that is shown."""
    page.ask(f"document.querySelector('#{operation} [role=status]').replaceChildren()")
    page.ask(f"document.querySelector('#{operation} button').click()")
    shown = page.wait_for(f"document.querySelector('#{operation} pre')?.textContent")
    answer: dict[str, Any] = json.loads(shown)
    return answer


def test_keys_are_enough(page: Page) -> None:
    page.press("Tab", 9)
    assert page.ask("document.activeElement.className") == "skip"
    page.press("Enter", 13, "\r")
    page.wait_for("document.activeElement.id === 'operations'")
    page.press("Tab", 9)
    assert page.ask("document.activeElement.parentElement.id") == "infer_digits"
    page.press("Enter", 13, "\r")
    page.wait_for("document.querySelector('#infer_digits button') !== null")
    names = "[...document.querySelectorAll('input, textarea')].every((field) => field.labels.length === 1)"
    assert page.ask(names)


@pytest.mark.parametrize("width", [320, 480, 1400])
def test_it_fits_the_screen(page: Page, width: int) -> None:
    page.show_on(width=width)
    page.ask("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    page.wait_for("[...document.querySelectorAll('.body')].every((body) => body.children.length)")
    assert page.ask("document.documentElement.scrollWidth") <= width


def test_text_is_readable_in_the_light_and_in_the_dark(page: Page) -> None:
    for scheme, is_dark in (("light", False), ("dark", True)):
        page.show_on(width=1000, scheme=scheme)
        assert (page.luminance("body", "backgroundColor") < 0.1) == is_dark
        for selector in ("body", ".quiet", "a", ".get", ".post", ".type"):
            page.assert_readable(selector, "body", "details")


def test_a_models_own_names_never_become_markup(save_model: SaveModel) -> None:
    name = "<img src=x onerror=blocked.push(1)>"
    info = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["<b>batch</b>", 1])
    output = helper.make_tensor_value_info("__proto__", TensorProto.FLOAT, ["<b>batch</b>", 1])
    graph = helper.make_graph([helper.make_node("Identity", [name], ["__proto__"])], "g", [info], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    with serving(save_model(model, "odd")) as server, browsing() as page:
        page.open(f"http://{server.address}/docs")
        page.wait_for(RENDERED)
        assert name in text_of(page, "#infer_odd")
        assert page.ask("document.querySelectorAll('img, b').length") == 0
        assert send(page, "infer_odd")["outputs"][0]["name"] == "__proto__"
        assert page.ask("blocked") == []


def test_a_document_that_cannot_be_had_is_told(address: str) -> None:
    with browsing() as page:
        page.call("Network.enable")
        page.call("Network.setBlockedURLs", urls=["*/openapi.json"])
        page.open(f"http://{address}/docs")
        page.wait_for("document.querySelector('#state')?.className === 'bad'")
        assert text_of(page, "#state").startswith("The document cannot be shown: ")


def test_a_page_of_another_site_has_nothing_run(address: str, digits: Path) -> None:
    def answered() -> int:
        with urllib.request.urlopen(f"http://{address}/v2/models/digits/stats") as response:
            return int(json.load(response)["model_stats"][0]["inference_stats"]["success"]["count"])

    def ask(page: Page) -> None:
        # What a form may say without asking the server first, and `curl -d` says too.
        form = {"content-type": "application/x-www-form-urlencoded"}
        question = {"method": "POST", "mode": "no-cors", "headers": form, "body": json.dumps({"pixels": [0] * 64})}
        url = f"http://{address}/v2/models/digits/generate"
        page.ask(f"fetch({json.dumps(url)}, {json.dumps(question)}).then((response) => response.type)")

    with serving(digits) as other, browsing() as page:
        before = answered()
        page.open(f"http://{other.address}/v2/health/live")
        ask(page)
        assert answered() == before
        page.open(f"http://{address}/v2/health/live")
        ask(page)
        assert answered() == before + 1
