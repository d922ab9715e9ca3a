"""The interface described by OpenAPI 3.1. docs/openapi.json is made by `python -m noiser.web.openapi > docs/openapi.json`."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from noiser import __version__
from noiser.methods import METHODS
from noiser.registry import Method
from noiser.web import schemas
from noiser.web.schemas import record, ref

REFUSALS = {
    "400": "The body is no strict JSON.",
    "401": "The server wants its token.",
    "403": "A page of another origin asks.",
    "408": "The body takes too long.",
    "413": "The body or the prompt is too long.",
    "415": "The body is not application/json.",
    "421": "The server does not go by that name.",
    "422": "An option, a prompt or a target that makes no sense, or that the model or method refuses.",
    "429": "Too many requests wait.",
    "500": "Something unforeseen.",
    "503": "The model is still being read, or could not be.",
    "507": "Not enough memory.",
}
RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def openapi(methods: Mapping[str, Method]) -> dict[str, Any]:
    """The description, with the options of these methods."""
    ordered = dict(sorted(methods.items()))
    components = {
        "Request": schemas.request(ordered),
        **{f"options.{name}": schemas.options_schema(method) for name, method in ordered.items()},
        **schemas.results(),
        "View": schemas.view(),
        "Event": schemas.events(),
        "About": schemas.about(),
        "Error": record({"error": record({"class": {"type": "string"}, "message": {"type": "string"}})}),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "noiser",
            "version": __version__,
            "description": "Which tokens of a prompt made the model predict what it predicted? Served by `noiser serve`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "Where the server wants one."}},
        },
        "security": [{}, {"token": []}],
    }


def _paths() -> dict[str, Any]:
    attribute = {"anyOf": [ref("Attribution"), ref("Comparison")]}
    streamed = "One JSON object a line (Event): queued, progress, and at last result or error. To leave is to cancel."
    return {
        "/api/about": {
            "get": _operation("about", "The model, the limits, the methods and their options", "About this server.", ref("About"))
        },
        "/api/attribute": {
            "post": _operation(
                "attribute", "Explain, all at once", "What `noiser attribute` or `compare --format json` prints.", attribute, asks=True
            )
        },
        "/api/explain": {
            "post": _operation("explain", "Explain, and tell how it goes", streamed, ref("Event"), asks=True, kind="application/x-ndjson")
        },
    }


def _operation(
    name: str, summary: str, answer: str, schema: dict[str, Any], *, asks: bool = False, kind: str = "application/json"
) -> dict[str, Any]:
    refusals = REFUSALS if asks else {status: REFUSALS[status] for status in ("401", "403", "421")}
    error = {"application/json": {"schema": ref("Error")}}
    responses = {"200": {"description": answer, "content": {kind: {"schema": schema}}}}
    for status, description in refusals.items():
        headers = {"headers": RETRY} if status in ("429", "503") else {}
        responses[status] = {"description": description, "content": error, **headers}
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": ref("Request")}}}} if asks else {}
    return {"operationId": name, "summary": summary, **body, "responses": responses}


def shipped() -> dict[str, Method]:
    """The methods that come with noiser, without those of other packages."""
    return {name: method for name, method in METHODS.items() if method.function.__module__.startswith("noiser.")}


if __name__ == "__main__":
    json.dump(openapi(shipped()), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
