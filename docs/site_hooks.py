"""Hooks that MkDocs calls while it builds the site.

README.md becomes the first page, CONTRIBUTING.md, CHANGELOG.md and the notebook become pages, and
formulas become MathML. Browsers draw MathML themselves, so that no page needs a script or the
internet for it.
"""

import html
import pathlib
import re

import nbconvert
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = "finetune"
# Files beside docs/ that become pages, and where links to them lead on the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE.txt",
}
# pymdownx.arithmatex turns $...$ and $$...$$ into this.
_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</\1>', re.DOTALL
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from files outside docs/ and from the notebook."""
    for source, target in PAGES.items():
        content = re.sub(r"\]\(docs/", "](", (ROOT / source).read_text("utf-8"))
        files.append(File.generated(config, target, content=content))
    page, resources = nbconvert.MarkdownExporter().from_filename(
        str(ROOT / "docs" / f"{NOTEBOOK}.ipynb"),
        {"unique_key": NOTEBOOK, "output_files_dir": f"{NOTEBOOK}_files"},
    )
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=page))
    for path, content in resources["outputs"].items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links to the notebook and to files outside docs/ at the pages made from them."""
    for source, target in PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(source)}(#|\))", rf"]({target}\1", markdown)
    return markdown.replace(f"({NOTEBOOK}.ipynb)", f"({NOTEBOOK}.md)")


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replaces formulas by MathML."""
    return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[1] == "div" else "inline"
    return convert(html.unescape(match["latex"]).strip(), display=display)
