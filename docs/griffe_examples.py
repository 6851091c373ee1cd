"""Examples of docstrings as Griffe wants them: under `Examples:`, indented, code in a block."""

import re
import textwrap

from griffe import Extension

_EXAMPLE = re.compile(r"^Example:\n(\n?)((?:.+\n?)+)", re.MULTILINE)


class IndentExamples(Extension):
    """Reads `Example:` with prompts behind an empty line, or with indented code, as a section."""

    def on_instance(self, *, obj, **_):
        """Called with every module, class, function and attribute that was read."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(_section, obj.docstring.value)


def _section(found):
    code = textwrap.dedent(found[2]).rstrip("\n")
    if not found[1]:
        code = f"```python\n{code}\n```"
    return "Examples:\n" + textwrap.indent(code, "    ") + "\n"
