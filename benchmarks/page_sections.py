"""Writes generated sections, such as tables, between the marker comments of a Markdown page."""

import pathlib
import re
from collections.abc import Mapping


def write_sections(path: str | pathlib.Path, sections: Mapping[str, str]) -> list[str]:
    """Replaces the text between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.

    Args:
        path: a Markdown file.
        sections: NAME → Markdown.

    Returns:
        The names of the sections that the page has.

    Raises:
        ValueError: the page has none of the sections.
    """
    path = pathlib.Path(path)
    text, names = path.read_text(), []
    for name, section in sections.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        replacement = f"{begin}{section.strip()}\n{end}"
        text, count = re.subn(
            pattern, lambda _, replacement=replacement: replacement, text, flags=re.DOTALL
        )
        if count:
            names.append(name)
    if not names:
        raise ValueError(
            f"{path} has no lines <!-- NAME: begin --> and <!-- NAME: end --> for any of: "
            f"{', '.join(sections)}."
        )
    path.write_text(text)
    return names
