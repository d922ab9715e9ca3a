"""The OpenAPI 3.1 description of the web interface. `python -m noiser.web.openapi > docs/openapi.json` writes the copy in docs."""

import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from noiser._version import __version__
from noiser.methods import METHODS
from noiser.registry import Method
from noiser.results.card import Card
from noiser.results.health import Finding
from noiser.web.requests import Limits

Schema = dict[str, Any]
LIMITS = Limits()
JSON_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}


def ref(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(properties: Mapping[str, Schema], *, optional: tuple[str, ...] = (), closed: bool = True, **more: Any) -> Schema:
    """An object. All properties but the optional ones are required; a closed object has no others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": not closed, **more}


def listed(items: Schema, **more: Any) -> Schema:
    """An array."""
    return {"type": "array", "items": items, **more}


def either(*kinds: Schema) -> Schema:
    """One of several schemas."""
    return {"anyOf": list(kinds)}


TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}
OBJECT: Schema = {"type": "object"}
NUMBERS = listed(NUMBER)
IDS = listed(INTEGER)
TEXTS = listed(TEXT)


def option_schema(option: Mapping[str, Any]) -> Schema:
    """The schema of an option from its description, `Option.to_dict`."""
    number = {"type": JSON_TYPES[option["type"]]} if option["type"] != "choice" else None
    if number and "low" in option:
        number |= {"minimum": option["low"], "maximum": option["high"]}
    candidates = [number, {"enum": option["choices"]} if "choices" in option else None, NULL if option["optional"] else None]
    kinds = [kind for kind in candidates if kind is not None]
    return {**(kinds[0] if len(kinds) == 1 else either(*kinds)), "default": option["default"], "description": option["help"]}


def options_schema(method: Method) -> Schema:
    """The options of a method. All of them may be left out."""
    schemas = {option.name: option_schema(option.to_dict()) for option in method.described_options}
    return record(schemas, optional=tuple(schemas), description=method.summary)


def sources_schema() -> dict[str, Schema]:
    """The named parts of a request's prompt."""
    span = record({"name": TEXT, "start": {"type": "integer", "minimum": 0}, "stop": {"type": "integer", "minimum": 0}})
    document = record({"title": TEXT, "text": TEXT}, optional=("title",))
    return {
        "spans": {
            **either(listed(span, minItems=1, maxItems=LIMITS.max_sources), NULL),
            "description": "Names for parts of the prompt, in characters of its text.",
        },
        "documents": {
            **either(listed(document, minItems=1, maxItems=LIMITS.max_sources), NULL),
            "description": "Sources that stand before the prompt, each a named span. Not with spans.",
        },
    }


def request_schema(methods: Mapping[str, Method]) -> Schema:
    """The body of a request."""
    words = either(TEXT, INTEGER, listed(INTEGER, minItems=1, maxItems=LIMITS.max_generate), NULL)
    message = record({"role": TEXT, "content": TEXT})
    label = {"type": "string", "pattern": f"^({'|'.join(methods)})(:.+=.*)?$", "description": "A method; it may carry options."}
    options = {name: ref(f"options.{name}") for name in methods}
    with_options = {f"^({'|'.join(methods)}):.+=": OBJECT}
    fields: dict[str, Schema] = {
        "prompt": either(TEXT, NULL),
        "messages": {**either(listed(message, minItems=1), NULL), "description": "A chat, instead of a prompt."},
        "input_ids": {**either(listed(INTEGER, minItems=1), NULL), "description": "Token ids, instead of a prompt."},
        **sources_schema(),
        "method": {**either(label, NULL), "description": "One method, for an Attribution; a stream gives a Comparison."},
        "options": {**either(OBJECT, NULL), "description": "The options of that one method, see options.NAME."},
        "methods": {
            **either(
                listed(label, minItems=1), record(options, optional=tuple(options), minProperties=1, patternProperties=with_options), NULL
            ),
            "description": "Several methods, for a Comparison: labels (noiser:bound=none), or labels with options.",
        },
        "target": {**words, "description": "What to explain, leading space included. null: the model's own next token."},
        "foil": {**words, "description": "Explain why the model prefers the target to this."},
        "continuation": {**words, "description": "A text that follows. Each of its tokens is explained by all before it."},
        "generate": either({"type": "integer", "minimum": 1, "maximum": LIMITS.max_generate}, NULL),
        "span": {
            **either(listed(INTEGER, minItems=2, maxItems=2), NULL),
            "description": "[from, up to]: explain these tokens of the continuation as one whole.",
        },
        "explain": {**either(TEXT, NULL), "description": "Exact words of the continuation to explain as one whole, instead of span."},
        "quantity": {
            **either(TEXT, NULL),
            "description": "prob, log_prob or mean_prob; with a foil prob or log_odds; of one next token also hellinger or jsd.",
        },
        "curves": {**either(BOOLEAN, NULL), "description": "Add removal curves. Default: true for a stream, else false."},
    }
    one_source = {"oneOf": [{"required": [name], "properties": {name: {"not": NULL}}} for name in ("prompt", "messages", "input_ids")]}
    return record(fields, optional=tuple(fields)) | one_source


def result_schemas() -> dict[str, Schema]:
    """The results, as the command line's JSON has them."""
    prompt: dict[str, Schema] = {
        "text": TEXT, "input_ids": IDS, "tokens": TEXTS, "given": INTEGER, "offsets": listed(IDS), "special": listed(BOOLEAN),
        "turns": listed(record({"role": TEXT, "tokens": IDS})), "spans": listed(record({"name": TEXT, "start": INTEGER, "stop": INTEGER})),
    }  # fmt: skip
    target: dict[str, Schema] = {
        "token_ids": IDS, "tokens": TEXTS, "prob": NUMBER, "rank": INTEGER, "quantity": TEXT, "value": NUMBER,
        "foil": either(ref("Target"), NULL), "context": INTEGER,
    }  # fmt: skip
    curve = {"order": IDS, "counts": IDS, "removed": NUMBERS, "kept": NUMBERS, "operator": TEXT}
    attribution: dict[str, Schema] = {
        "schema": {"const": 1}, "model": TEXT, "revision": TEXT, "method": TEXT, "options": OBJECT,
        "seed": either(INTEGER, NULL), "label": TEXT, "prompt": ref("Prompt"), "target": ref("Target"), "targets": listed(ref("Target")),
        "unit": TEXT, "scores": {**listed(NUMBERS), "description": "[targets, tokens]; a higher score supports the target more."},
        "stderr": {**listed(NUMBERS), "description": "Standard errors of the scores, from the method's own random draws."},
        "dof": {**listed(either(INTEGER, NULL)), "description": "Degrees of freedom of each row of stderr, for Student's t; null: many."},
        "notes": OBJECT, "cost": ref("Cost"), "curves": listed(ref("Curve")), "card": ref("Card"), "health": listed(ref("Finding")),
    }  # fmt: skip
    comparison: dict[str, Schema] = {
        "schema": {"const": 1}, "methods": TEXTS, "attributions": listed(ref("Attribution")), "agreement": ref("Agreement"),
        "failures": {"type": "object", "additionalProperties": TEXT},
    }  # fmt: skip
    pairs = listed(listed(either(NUMBER, NULL)))
    return {
        "Prompt": record(prompt, optional=("offsets", "special", "turns", "spans")),
        "Target": record(target),
        "Cost": record({"seconds": NUMBER, "forward_tokens": INTEGER, "backward_tokens": INTEGER, "peak_bytes": INTEGER}),
        "Curve": record(curve),
        "Agreement": record({"spearman": pairs, "top3_overlap": pairs}),
        "ViewAgreement": record({"spearman": pairs, "top3_overlap": pairs, "targets": listed(pairs)}),
        "Card": record(dict.fromkeys((field.name for field in fields(Card)), TEXT)),
        "Finding": record(dict.fromkeys((field.name for field in fields(Finding)), TEXT)),
        "Attribution": record(attribution, optional=("curves", "label", "stderr", "dof")),
        "Comparison": record(comparison),
    }


def view_schema() -> Schema:
    """What the viewer draws. docs/viewer.md explains the fields."""
    per_token = {"labels": TEXTS, "texts": TEXTS, "special": listed(BOOLEAN)}
    row: dict[str, Schema] = {
        "method": TEXT, "label": TEXT, "options": OBJECT, "seed": either(INTEGER, NULL), "unit": TEXT, "scores": listed(NUMBERS),
        "notes": OBJECT, "cost": ref("Cost"), "curves": listed(either(ref("Curve"), NULL)), "card": ref("Card"),
        "health": listed(ref("Finding")), "stderr": listed(NUMBERS),
        "dof": listed(either(INTEGER, NULL)), "critical": {"type": "object", "additionalProperties": NUMBERS},
    }  # fmt: skip
    optional = ("label", "stderr", "dof", "critical")
    view: dict[str, Schema] = {
        "schema": {"const": 1}, "noiser": TEXT, "title": TEXT, "model": TEXT, "revision": TEXT, "comparison": BOOLEAN,
        "prompt": ref("Prompt"), **per_token, "roles": {"type": "object", "additionalProperties": TEXT}, "units": OBJECT,
        "targets": listed(OBJECT), "rows": listed(record(row, optional=optional, closed=False)), "agreement": ref("ViewAgreement"),
        "failures": {"type": "object", "additionalProperties": TEXT}, "evaluation": either(OBJECT, NULL),
        "sources": OBJECT,
    }  # fmt: skip
    return record(view, optional=("roles", "sources"), closed=False)


def event_schema() -> Schema:
    """One line of a stream."""

    def event(name: str, **properties: Schema) -> Schema:
        return record({"event": {"const": name}, **properties})

    progress = {
        "method": TEXT, "methods_done": INTEGER, "methods": INTEGER, "forward_tokens": INTEGER, "seconds": NUMBER,
        "seconds_left": either(NUMBER, NULL),
    }  # fmt: skip
    return {
        "oneOf": [
            event("queued", ahead=INTEGER),
            event("progress", **progress),
            event("result", cached=BOOLEAN, view=ref("View")),
            event("error", **{"class": TEXT, "message": TEXT}),
        ]
    }


def about_schema() -> Schema:
    """What /api/about tells the page."""
    option: dict[str, Schema] = {
        "name": TEXT, "type": {"enum": ["int", "float", "str", "bool", "choice"]}, "choices": listed({}), "low": NUMBER,
        "high": NUMBER, "default": {}, "optional": BOOLEAN, "help": TEXT,
    }  # fmt: skip
    options = listed(record(option, optional=("choices", "low", "high")))
    method = record({"name": TEXT, "family": TEXT, "summary": TEXT, "cost": TEXT, "source": TEXT, "options": options})
    limits = record(dict.fromkeys(LIMITS.to_dict(), INTEGER))
    fields: dict[str, Schema] = {
        "noiser": TEXT, "model": either(TEXT, NULL), "revision": either(TEXT, NULL),
        "status": {"enum": ["loading", "ready", "failed"]}, "message": TEXT, "limits": limits, "chat": BOOLEAN,
        "default_methods": TEXTS, "methods": listed(method), "examples": listed(OBJECT),
    }  # fmt: skip
    return record(fields)


ERRORS = {
    "400": "The body is not strict JSON.",
    "401": "The request lacks the server's token.",
    "403": "The request comes from a page of another origin.",
    "408": "The body took too long to arrive.",
    "413": "The body or the prompt is too long.",
    "415": "The body is not application/json.",
    "421": "The Host header does not name this server.",
    "422": "An option, a prompt or a target is invalid, or the model or method refuses it.",
    "429": "Too many requests are waiting.",
    "500": "An unexpected error.",
    "503": "The model is still being loaded, or could not be loaded.",
    "504": "The request took longer than the server's time limit.",
    "507": "There is not enough memory.",
}
RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def openapi(methods: Mapping[str, Method]) -> dict[str, Any]:
    """The whole description, with the options of these methods."""
    ordered = dict(sorted(methods.items()))
    components = {
        "Request": request_schema(ordered),
        **{f"options.{name}": options_schema(method) for name, method in ordered.items()},
        **result_schemas(),
        "View": view_schema(),
        "Event": event_schema(),
        "About": about_schema(),
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
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "If the server was started with a token."}},
        },
        "security": [{}, {"token": []}],
    }


def _paths() -> dict[str, Any]:
    attribute = {"anyOf": [ref("Attribution"), ref("Comparison")]}
    streamed = "One JSON object (Event) a line: queued, progress, and at last result or error. The job stops if the client leaves."
    return {
        "/api/about": {
            "get": _operation("about", "The model, the limits, the methods and their options", "About this server.", ref("About"))
        },
        "/api/attribute": {
            "post": _operation(
                "attribute",
                "Explain, in one answer",
                "What `noiser attribute --format json` or `compare` prints.",
                attribute,
                has_body=True,
            )
        },
        "/api/explain": {
            "post": _operation("explain", "Explain, with progress", streamed, ref("Event"), has_body=True, kind="application/x-ndjson")
        },
    }


def _operation(
    name: str, summary: str, answer: str, schema: dict[str, Any], *, has_body: bool = False, kind: str = "application/json"
) -> dict[str, Any]:
    errors = ERRORS if has_body else {status: ERRORS[status] for status in ("401", "403", "421")}
    error = {"application/json": {"schema": ref("Error")}}
    responses = {"200": {"description": answer, "content": {kind: {"schema": schema}}}}
    for status, description in errors.items():
        headers = {"headers": RETRY} if status in ("429", "503") else {}
        responses[status] = {"description": description, "content": error, **headers}
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": ref("Request")}}}} if has_body else {}
    return {"operationId": name, "summary": summary, **body, "responses": responses}


def own_methods() -> dict[str, Method]:
    """The methods of noiser itself, without those of other packages."""
    return {name: method for name, method in METHODS.items() if method.function.__module__.startswith("noiser.")}


if __name__ == "__main__":
    json.dump(openapi(own_methods()), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
