"""Reads the README and the pages: their code blocks, commands and links."""

import re
import shlex
from typing import NamedTuple

from shared_data import REPOSITORY

PAGES = tuple(
    str(path.relative_to(REPOSITORY))
    for path in [
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *sorted((REPOSITORY / "docs").rglob("*.md")),
        REPOSITORY / "saved_models" / "README.md",
    ]
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        page: path of the page, relative to the checkout.
        line: number of the code's first line on the page.
        language: the word after the fence.
        code: the lines between the fences.
    """

    page: str
    line: int
    language: str
    code: str


def text(page):
    """Returns the Markdown of a page."""
    return (REPOSITORY / page).read_text("utf-8")


def blocks(page, *languages):
    """Returns the fenced blocks of a page in order, all or only those of the given languages."""
    markdown = text(page)
    results = []
    for match in _BLOCK.finditer(markdown):
        line = markdown.count("\n", 0, match.start(2)) + 1
        results.append(Block(page, line, *match.groups()))
    return [block for block in results if not languages or block.language in languages]


def command_lines(page):
    """Returns the commands in a page's bash blocks, each on one line."""
    code = "".join(block.code for block in blocks(page, "bash"))
    lines = re.sub(r"\s*\\\n\s*", " ", code).splitlines()
    return [line for line in lines if line.strip()]


def commands(page):
    """Returns `command_lines` as lists of words, without comments."""
    return [shlex.split(line, comments=True) for line in command_lines(page)]


def prose(page):
    """Returns the Markdown of a page without its fenced blocks."""
    return _BLOCK.sub("", text(page))


def links(page):
    """Returns the targets of a page's links and images."""
    return _LINK.findall(prose(page))


def anchors(page):
    """Returns the anchors of a page's headings, as GitHub and MkDocs write them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def shape(output):
    """Returns the lines of a program's output as a set, with `#` for numbers and single spaces."""
    masked = re.sub(r"[+-]?\d[\d.,]*(e[+-]?\d+)?%?", "#", output)
    return {" ".join(line.split()) for line in masked.splitlines()}
