"""The API's description as a page without scripts, made from its OpenAPI document."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from html import escape
from typing import Any


def render(document: dict[str, Any]) -> str:
    """A page for all operations of an OpenAPI document: parameters, bodies, answers with examples."""
    operations = [
        _operation(path, method, operation, document)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    title, version = escape(document["info"]["title"]), escape(document["info"]["version"])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title} API</title>'
        '<link rel="icon" href="static/icon.svg"><link rel="stylesheet" href="static/style.css"></head>\n'
        f'<body><header><h1><a href="./">{title}</a> API {version}</h1>'
        '<p>For machines: <a href="openapi.json">openapi.json</a></p></header>'
        f'<main class="docs">{"".join(operations)}</main></body></html>\n'
    )


def _operation(path: str, method: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2>", _prose(operation.get("description", ""))]
    if parameters := operation.get("parameters"):
        rows = [(p["name"], p["in"], _limits(p["schema"]), p.get("description", "")) for p in parameters]
        parts.append(_table("Parameters", rows))
    if body := operation.get("requestBody"):
        parts.append(_table("Body", [(kind, _fields(entry["schema"])) for kind, entry in body["content"].items()]))
    for status, answer in operation["responses"].items():
        parts.append(f"<h3>{escape(status)} {escape(answer.get('description', ''))}</h3>")
        for entry in answer.get("content", {}).values():
            example = entry.get("example") or _example(entry.get("schema", {}), document)
            if example is not None:
                parts.append(f"<pre>{escape(json.dumps(example, indent=2))}</pre>")
    return f"<section>{''.join(parts)}</section>"


def _prose(text: str) -> str:
    """Paragraphs; an indented one is code."""
    blocks = [block.rstrip() for block in text.split("\n\n")]
    return "".join(
        f"<pre>{escape(inspect.cleandoc(block))}</pre>" if block.startswith("    ") else f"<p>{escape(block)}</p>"
        for block in blocks
    )


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> str:
    lines = ""
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        lines += f'<tr><th scope="row"><code>{escape(first)}</code></th>{cells}</tr>'
    return f"<h3>{title}</h3><table>{lines}</table>"


def _limits(schema: dict[str, Any]) -> str:
    kind = schema.get("type") or " or ".join(arm.get("type", "") for arm in schema.get("anyOf", []))
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    default = f", default {json.dumps(schema['default'])}" if "default" in schema else ""
    return " ".join([kind, *bounds]) + default


def _fields(schema: dict[str, Any]) -> str:
    if "properties" not in schema:
        return "the bytes of one image"
    return ", ".join(f"{name}: one or many files" for name in schema["properties"])


def _example(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """The first example of a named schema."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return next(iter(document["components"]["schemas"].get(name, {}).get("examples", [])), None)
