"""The interface described by OpenAPI 3.1. docs/openapi.json is made by `python -m noiser.web.openapi > docs/openapi.json`."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from noiser._version import __version__
from noiser.methods import METHODS
from noiser.registry import Method
from noiser.web.requests import Limits

Schema = dict[str, Any]
LIMITS = Limits()
JSON_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}


def ref(name: str) -> Schema:
    """Points to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(properties: Mapping[str, Schema], *, optional: tuple[str, ...] = (), closed: bool = True, **more: Any) -> Schema:
    """An object; all of its properties are there but the optional ones, and no others where it is closed."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": not closed, **more}


def listed(items: Schema, **more: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": items, **more}


def either(*kinds: Schema) -> Schema:
    """One of several."""
    return {"anyOf": list(kinds)}


TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
NOTHING: Schema = {"type": "null"}
ANYTHING: Schema = {"type": "object"}
NUMBERS = listed(NUMBER)
IDS = listed(WHOLE)
TEXTS = listed(TEXT)


def option_schema(form: Mapping[str, Any]) -> Schema:
    """The schema of an option from its description, `Option.to_dict`."""
    number = {"type": JSON_TYPES[form["type"]]} if form["type"] != "choice" else None
    if number and "low" in form:
        number |= {"minimum": form["low"], "maximum": form["high"]}
    kinds = [number, {"enum": form["choices"]} if "choices" in form else None, NOTHING if form["optional"] else None]
    found = [kind for kind in kinds if kind is not None]
    return {**(found[0] if len(found) == 1 else either(*found)), "default": form["default"], "description": form["help"]}


def options_schema(method: Method) -> Schema:
    """The options of a method, none of which has to be given."""
    forms = {option.name: option_schema(option.to_dict()) for option in method.described_options}
    return record(forms, optional=tuple(forms), description=method.summary)


def request(methods: Mapping[str, Method]) -> Schema:
    """What is asked."""
    words = either(TEXT, WHOLE, listed(WHOLE, minItems=1, maxItems=LIMITS.max_generate), NOTHING)
    message = record({"role": TEXT, "content": TEXT})
    own = {name: ref(f"options.{name}") for name in methods}
    fields: dict[str, Schema] = {
        "prompt": either(TEXT, NOTHING),
        "messages": {**either(listed(message, minItems=1), NOTHING), "description": "A chat, instead of a prompt."},
        "input_ids": {**either(listed(WHOLE, minItems=1), NOTHING), "description": "Token ids, instead of a prompt."},
        "method": {**either({"enum": list(methods)}, NOTHING), "description": "One, for an Attribution (a stream compares it alone)."},
        "options": {**either(ANYTHING, NOTHING), "description": "Of that one method, see options.NAME."},
        "methods": {
            **either(listed({"enum": list(methods)}, minItems=1), record(own, optional=tuple(own), minProperties=1), NOTHING),
            "description": "Several, for a Comparison: names, or names with options.",
        },
        "target": {**words, "description": "What to explain, with its leading space; null: the model's own next token."},
        "foil": {**words, "description": "Why the target and not this?"},
        "continuation": {**words, "description": "A text that follows, each of its tokens explained by all before it."},
        "generate": either({"type": "integer", "minimum": 1, "maximum": LIMITS.max_generate}, NOTHING),
        "span": {
            **either(listed(WHOLE, minItems=2, maxItems=2), NOTHING),
            "description": "[from, up to]: part of a continuation, as a whole.",
        },
        "quantity": {**either(TEXT, NOTHING), "description": "prob, log_prob, mean_prob; with a foil prob or log_odds."},
        "curves": {**either(FLAG, NOTHING), "description": "Removal curves too. By default only where the answer is a stream."},
    }
    one_source = {"oneOf": [{"required": [name], "properties": {name: {"not": NOTHING}}} for name in ("prompt", "messages", "input_ids")]}
    return record(fields, optional=tuple(fields)) | one_source


def results() -> dict[str, Schema]:
    """What the command line's JSON has as well."""
    target: dict[str, Schema] = {
        "token_ids": IDS, "tokens": TEXTS, "prob": NUMBER, "rank": WHOLE, "quantity": TEXT, "value": NUMBER,
        "foil": either(ref("Target"), NOTHING), "context": WHOLE,
    }  # fmt: skip
    curve = {"order": IDS, "counts": IDS, "removed": NUMBERS, "kept": NUMBERS, "operator": TEXT}
    attribution: dict[str, Schema] = {
        "schema": {"const": 1}, "model": TEXT, "revision": TEXT, "method": TEXT, "options": ANYTHING,
        "seed": either(WHOLE, NOTHING), "prompt": ref("Prompt"), "target": ref("Target"), "targets": listed(ref("Target")),
        "unit": TEXT, "scores": {**listed(NUMBERS), "description": "[targets, tokens], higher supports the target more."},
        "notes": ANYTHING, "cost": ref("Cost"), "curves": listed(ref("Curve")),
    }  # fmt: skip
    comparison: dict[str, Schema] = {
        "schema": {"const": 1}, "methods": TEXTS, "attributions": listed(ref("Attribution")), "agreement": ref("Agreement"),
        "failures": {"type": "object", "additionalProperties": TEXT},
    }  # fmt: skip
    pairs = listed(listed(either(NUMBER, NOTHING)))
    return {
        "Prompt": record({"text": TEXT, "input_ids": IDS, "tokens": TEXTS, "given": WHOLE}),
        "Target": record(target),
        "Cost": record({"seconds": NUMBER, "forward_tokens": WHOLE, "backward_tokens": WHOLE, "peak_bytes": WHOLE}),
        "Curve": record(curve),
        "Agreement": record({"spearman": pairs, "top3_overlap": pairs}),
        "ViewAgreement": record({"spearman": pairs, "top3_overlap": pairs, "targets": listed(pairs)}),
        "Attribution": record(attribution, optional=("curves",)),
        "Comparison": record(comparison),
    }


def view() -> Schema:
    """What the viewer draws; docs/viewer.md says what its fields mean."""
    per_token = {"labels": TEXTS, "texts": TEXTS, "special": listed(FLAG)}
    row: dict[str, Schema] = {
        "method": TEXT, "options": ANYTHING, "seed": either(WHOLE, NOTHING), "unit": TEXT, "scores": listed(NUMBERS),
        "notes": ANYTHING, "cost": ref("Cost"), "curves": listed(either(ref("Curve"), NOTHING)),
    }  # fmt: skip
    fields: dict[str, Schema] = {
        "schema": {"const": 1}, "noiser": TEXT, "title": TEXT, "model": TEXT, "revision": TEXT, "comparison": FLAG,
        "prompt": ref("Prompt"), **per_token, "roles": {"type": "object", "additionalProperties": TEXT}, "units": ANYTHING,
        "targets": listed(ANYTHING), "rows": listed(record(row, closed=False)), "agreement": ref("ViewAgreement"),
        "failures": {"type": "object", "additionalProperties": TEXT}, "evaluation": either(ANYTHING, NOTHING),
    }  # fmt: skip
    return record(fields, optional=("roles",), closed=False)


def events() -> Schema:
    """A line of a stream."""

    def event(name: str, **properties: Schema) -> Schema:
        return record({"event": {"const": name}, **properties})

    progress = {
        "method": TEXT, "methods_done": WHOLE, "methods": WHOLE, "forward_tokens": WHOLE, "seconds": NUMBER,
        "seconds_left": either(NUMBER, NOTHING),
    }  # fmt: skip
    return {
        "oneOf": [
            event("queued", ahead=WHOLE),
            event("progress", **progress),
            event("result", cached=FLAG, view=ref("View")),
            event("error", **{"class": TEXT, "message": TEXT}),
        ]
    }


def about() -> Schema:
    """What the page is told."""
    option: dict[str, Schema] = {
        "name": TEXT, "type": {"enum": ["int", "float", "str", "bool", "choice"]}, "choices": listed({}), "low": NUMBER,
        "high": NUMBER, "default": {}, "optional": FLAG, "help": TEXT,
    }  # fmt: skip
    options = listed(record(option, optional=("choices", "low", "high")))
    method = record({"name": TEXT, "family": TEXT, "summary": TEXT, "cost": TEXT, "source": TEXT, "options": options})
    limits = record(dict.fromkeys(LIMITS.to_dict(), WHOLE))
    fields: dict[str, Schema] = {
        "noiser": TEXT, "model": either(TEXT, NOTHING), "revision": either(TEXT, NOTHING),
        "status": {"enum": ["loading", "ready", "failed"]}, "message": TEXT, "limits": limits, "chat": FLAG,
        "default_methods": TEXTS, "methods": listed(method), "examples": listed(ANYTHING),
    }  # fmt: skip
    return record(fields)


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
        "Request": request(ordered),
        **{f"options.{name}": options_schema(method) for name, method in ordered.items()},
        **results(),
        "View": view(),
        "Event": events(),
        "About": about(),
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
