"""MkDocs: the page of the command line is what the commands say of themselves; marks for the tests are taken away."""

import re
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from bcdnet.cli.main import VERBS, load

HEAD = """# The command line

`bcdnet VERB --help` prints the same. Errors are one line on standard error, and the exit code is then 2.

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


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave out the marks that tell the tests which blocks to run: MkDocs knows the language alone."""
    return re.sub(r"^```(sh|python) test(?: slow)?$", r"```\1", markdown, flags=re.MULTILINE)
