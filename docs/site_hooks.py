"""What MkDocs does for this site beside its plugins.

The README is the first page, the notebook is one, and formulas become MathML, which browsers draw
by themselves: no page needs a script for them, and none needs the internet.
"""

import html
import pathlib
import re

import nbconvert
from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = "finetune"
# What pymdownx.arithmatex leaves of $...$ and $$...$$.
_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</\1>', re.DOTALL
)


def on_files(files, config):
    """Adds the pages that no file in docs/ holds."""
    readme = (ROOT / "README.md").read_text("utf-8")
    readme = re.sub(r"\]\(docs/", "](", readme).replace("](LICENSE)", "](LICENSE.txt)")
    files.append(File.generated(config, "index.md", content=readme))
    files.append(File.generated(config, "LICENSE.txt", abs_src_path=str(ROOT / "LICENSE")))
    page, resources = nbconvert.MarkdownExporter().from_filename(
        str(ROOT / "docs" / f"{NOTEBOOK}.ipynb"),
        {"unique_key": NOTEBOOK, "output_files_dir": f"{NOTEBOOK}_files"},
    )
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=page))
    for path, content in resources["outputs"].items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to the README and to the notebook go to their pages."""
    markdown = markdown.replace("(../README.md", "(index.md")
    return markdown.replace(f"({NOTEBOOK}.ipynb)", f"({NOTEBOOK}.md)")


def on_page_content(content, page, config, files):
    """Formulas as MathML."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found):
    display = "block" if found[1] == "div" else "inline"
    return convert(html.unescape(found["latex"]).strip(), display=display)
