"""Tables that a command writes into a page, between comments that say which."""

import pathlib
import re


def write_sections(path, sections):
    """Replaces what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.

    Args:
        path: a Markdown file.
        sections: NAME → Markdown.

    Returns:
        The names of those that the page has.

    Raises:
        ValueError: the page has none of them.
    """
    path = pathlib.Path(path)
    text, found = path.read_text(), []
    for name, section in sections.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        whole = f"{begin}{section.strip()}\n{end}"
        text, count = re.subn(pattern, lambda _, whole=whole: whole, text, flags=re.DOTALL)
        found += [name] * bool(count)
    if not found:
        raise ValueError(
            f"{path} has no lines <!-- NAME: begin --> and <!-- NAME: end --> for any of: "
            f"{', '.join(sections)}."
        )
    path.write_text(text)
    return found
