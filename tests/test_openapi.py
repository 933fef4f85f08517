"""/openapi.json is valid OpenAPI 3.1, and what it says of a model is what the model takes and gives."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import models
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from serving import Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import SaveModel

Document = dict[str, Any]


def fetch(server: Server, path: str, body: object = None) -> tuple[int, Any]:
    """Return the status and the JSON at `path`; a body is posted."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{server.address}{path}", data)) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def problems(document: Document, schema: Document, value: object) -> list[str]:
    """Return what is wrong with `value` by a schema of the document."""
    validator = Draft202012Validator({**schema, "components": document["components"]})
    return [error.message for error in validator.iter_errors(value)]


def schema_of(part: Document) -> Document:
    schema: Document = part["content"]["application/json"]["schema"]
    return schema


@pytest.fixture(scope="module")
def server(digits: Path) -> Iterator[Server]:
    with serving(digits) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Server) -> Document:
    status, document = fetch(server, "/openapi.json")
    assert status == 200
    return dict(document)


def test_the_document_is_valid(document: Document) -> None:
    assert document["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_the_validator_would_find_a_mistake(document: Document) -> None:
    broken = json.loads(json.dumps(document))
    del broken["paths"]["/v2"]["get"]["responses"]["200"]["description"]
    assert list(OpenAPIV31SpecValidator(broken).iter_errors()) != []


def test_models_with_every_data_type_are_described_validly(tmp_path: Path) -> None:
    for datatype in models.DATATYPES:
        models.save(models.identity(datatype), tmp_path / f"{datatype.lower()}.onnx")
    models.save(models.two_inputs(), tmp_path / "two.onnx")
    models.save(models.scalar(), tmp_path / "scalar.onnx")
    with serving(tmp_path) as server:
        _, document = fetch(server, "/openapi.json")
        _, index = fetch(server, "/v2/repository/index", {})
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    ready = [model["name"] for model in index if model["state"] == "READY"]
    assert {"fp32", "bytes", "two", "scalar"} <= set(ready)
    assert [name for name in ready if f"/v2/models/{name}/infer" not in document["paths"]] == []


def pixels(**changes: object) -> Document:
    """Write a request with one good row and these members of its input changed."""
    pixels = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}
    return {"inputs": [pixels | changes]}


def test_a_good_request_and_its_answer_are_what_is_described(server: Server, document: Document) -> None:
    for verb, body in (("infer", pixels()), ("generate", {"pixels": [0.5] * 64, "id": "a", "k": 1})):
        operation = document["paths"][f"/v2/models/digits/{verb}"]["post"]
        assert problems(document, schema_of(operation["requestBody"]), body) == []
        status, answer = fetch(server, f"/v2/models/digits/{verb}", body)
        assert status == 200
        assert problems(document, schema_of(operation["responses"]["200"]), answer) == []
        general = document["paths"][f"/v2/models/{{model}}/{verb}"]["post"]
        assert problems(document, schema_of(general["requestBody"]), body) == []
        assert problems(document, schema_of(general["responses"]["200"]), answer) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        pixels(name="pixel"),
        pixels(datatype="FP64"),
        pixels(shape=[1, 63]),
        pixels(shape=[64]),
        pixels(shape=[0, 64], data=[]),
        pixels(data=["a"] * 64),
        pixels() | {"outputs": [{"name": "nope"}]},
        pixels() | {"id": "x" * 257},
    ],
)
def test_what_the_description_refuses_the_server_refuses(server: Server, document: Document, body: Document) -> None:
    operation = document["paths"]["/v2/models/digits/infer"]["post"]
    assert problems(document, schema_of(operation["requestBody"]), body) != []
    status, answer = fetch(server, "/v2/models/digits/infer", body)
    assert status == 400
    assert problems(document, {"$ref": "#/components/schemas/Error"}, answer) == []


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v2/models/digits", "/v2/models/digits/stats", "/v2/models/stats", "/v2/logging", "/v2/trace/setting"],
)
def test_an_answer_is_what_is_described(server: Server, document: Document, path: str) -> None:
    described = document["paths"][path.replace("digits", "{model}")]["get"]["responses"]["200"]
    status, answer = fetch(server, path)
    assert status == 200
    assert problems(document, schema_of(described), answer) == []


def test_names_that_hide_the_protocols_own_stay_valid(save_model: SaveModel) -> None:
    model = models.identity("FP32")
    rename = {model.graph.input[0].name: "id", model.graph.output[0].name: "model_name"}
    for node in model.graph.node:
        node.input[:] = [rename.get(name, name) for name in node.input]
        node.output[:] = [rename.get(name, name) for name in node.output]
    model.graph.input[0].name, model.graph.output[0].name = "id", "model_name"
    with serving(save_model(model, "odd")) as server:
        _, document = fetch(server, "/openapi.json")
        assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
        operation = document["paths"]["/v2/models/odd/generate"]["post"]
        body = {"id": [0.5, 1.5, 2.5]}
        assert problems(document, schema_of(operation["requestBody"]), body) == []
        status, answer = fetch(server, "/v2/models/odd/generate", body)
        assert status == 200
        assert problems(document, schema_of(operation["responses"]["200"]), answer) == []
