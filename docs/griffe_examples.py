"""An extension of Griffe that reads the `Example:` sections of the package's docstrings."""

import re
import textwrap

from griffe import Extension

_EXAMPLE = re.compile(r"^Example:\n(\n?)((?:.+\n?)+)", re.MULTILINE)


class IndentExamples(Extension):
    """Turns `Example:` sections into the `Examples:` sections that Griffe knows.

    The lines of an example are either prompts after an empty line, or indented code. Griffe wants
    both indented, and code in a fenced block.
    """

    def on_instance(self, *, obj, **_):
        """Rewrites the docstring of one module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(_section, obj.docstring.value)


def _section(match):
    code = textwrap.dedent(match[2]).rstrip("\n")
    if not match[1]:
        code = f"```python\n{code}\n```"
    return "Examples:\n" + textwrap.indent(code, "    ") + "\n"
