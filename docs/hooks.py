"""MkDocs: the page of the command line is what the commands say of themselves, a recipe's keys are those of the code;
marks for the tests are taken away.
"""

import json
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from pydoc import locate
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from bcdnet.cli.main import VERBS, load

HEAD = """# The command line

`bcdnet VERB --help` prints the same. An error is one line on standard error, and the exit code is then 2;
`predict` and `verify` say what they mean by 1.

"""


def command_page() -> str:
    """All verbs in the order of `bcdnet --help`, as Markdown."""
    pages = []
    for name in VERBS:
        command: Any = load(name)
        context = typer.Context(command, info_name=f"bcdnet {name}")
        # One title for the page; the verbs are its sections.
        pages.append(f"#{get_docs_for_click(obj=command, ctx=context, name=f'bcdnet {name}')}")
    return HEAD + "\n".join(pages)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page."""
    files.append(File.generated(config, "cli.md", content=command_page()))
    return files


def keys_of(section: str) -> str:
    """The keys of a recipe's section, a dataclass: what each may be, and what it is when left out, as a table."""
    config: Any = locate(section)
    rows = [f"| `{field.name}` | {_words(field.type)} | {_default(field)} |" for field in fields(config)]
    return "\n".join(("| key | | default |", "| --- | --- | --- |", *rows))


def _words(kind: Any) -> str:
    """A type as a writer of YAML thinks of it."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if get_origin(kind) is UnionType:
        return " or ".join(_words(part) for part in parts)
    if get_origin(kind) is tuple:
        what = {str: "names", float: "numbers"}.get(parts[0], "sections")
        return f"list of {what}" if parts[-1] is Ellipsis else f"list of {len(parts)} {what}"
    known = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}
    return known.get(kind, "section" if is_dataclass(kind) else "settings by name")


def _default(field: Field[Any]) -> str:
    if isinstance(field.default, str):
        return field.default and f"`{field.default}`"
    if field.default is not MISSING:
        return f"`{json.dumps(field.default)}`"
    return "must be given" if field.default_factory is MISSING else ""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in tables of keys, and leave out the marks that tell the tests which blocks to run, which MkDocs does not
    know.
    """
    markdown = re.sub(r"^<!-- keys of (\S+) -->$", lambda found: keys_of(found[1]), markdown, flags=re.MULTILINE)
    return re.sub(r"^```(sh|python) test(?: slow)?$", r"```\1", markdown, flags=re.MULTILINE)
