"""Examples of docstrings as Griffe wants them: indented under their title."""

import re

from griffe import Extension

_EXAMPLE = re.compile(r"^Example:\n\n((?:.+\n?)+)", re.MULTILINE)


class IndentExamples(Extension):
    """Reads `Example:` with unindented prompts behind an empty line as a section."""

    def on_instance(self, *, obj, **_):
        """Called with every module, class, function and attribute that was read."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(_indented, obj.docstring.value)


def _indented(found):
    lines = found[1].rstrip("\n").split("\n")
    return "\n".join(["Example:", *(f"    {line}" for line in lines), ""])
