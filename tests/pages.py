"""The README and the pages of docs/: their code blocks, commands and links."""

import re
import shlex
from typing import NamedTuple

from shared_data import REPOSITORY

PAGES = tuple(
    str(path.relative_to(REPOSITORY))
    for path in [
        REPOSITORY / "README.md",
        *sorted((REPOSITORY / "docs").rglob("*.md")),
        REPOSITORY / "saved_models" / "README.md",
    ]
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        page: its page, relative to the checkout.
        line: number of the code's first line there.
        language: what follows the fence.
        code: the lines between the fences.
    """

    page: str
    line: int
    language: str
    code: str


def text(page):
    """The Markdown of a page."""
    return (REPOSITORY / page).read_text("utf-8")


def blocks(page, *languages):
    """The fenced blocks of a page in order, all or those of some languages."""
    markdown = text(page)
    found = []
    for match in _BLOCK.finditer(markdown):
        line = markdown.count("\n", 0, match.start(2)) + 1
        found.append(Block(page, line, *match.groups()))
    return [block for block in found if not languages or block.language in languages]


def command_lines(page):
    """The lines of a page's bash blocks, those joined that end in a backslash."""
    code = "".join(block.code for block in blocks(page, "bash"))
    lines = re.sub(r"\s*\\\n\s*", " ", code).splitlines()
    return [line for line in lines if line.strip()]


def commands(page):
    """`command_lines` as lists of words, without comments."""
    return [shlex.split(line, comments=True) for line in command_lines(page)]


def prose(page):
    """The Markdown of a page without its blocks."""
    return _BLOCK.sub("", text(page))


def links(page):
    """The targets of a page's links and images."""
    return _LINK.findall(prose(page))


def anchors(page):
    """What a link can name behind `#`: the headings, as GitHub and MkDocs write them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def shape(output):
    """The lines of what a program prints, numbers as `#` and spaces as one, as a set."""
    masked = re.sub(r"[+-]?\d[\d.,]*(e[+-]?\d+)?%?", "#", output)
    return {" ".join(line.split()) for line in masked.splitlines()}
