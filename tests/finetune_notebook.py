"""Runs the notebook of docs/ from its first cell to its last.

As a program, it writes the outputs of the cells into the file, which the site shows:

    python tests/finetune_notebook.py
"""

import nbformat
from shared_data import REPOSITORY

PATH = REPOSITORY / "docs" / "finetune.ipynb"


def read():
    """Returns the notebook as it is committed."""
    return nbformat.read(PATH, as_version=4)


def execute(notebook, folder):
    """Runs all cells in a kernel of this interpreter, and raises the error of a cell.

    Args:
        notebook: the return value of `read`. The outputs are written into it.
        folder: the kernel's working folder.
    """
    from nbclient import NotebookClient

    NotebookClient(
        notebook, timeout=300, record_timing=False, resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # TensorFlow's warnings about this machine are left out.
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            for out in cell.outputs:
                out.pop("transient", None)
    notebook.metadata.language_info = {"name": "python"}


def main():
    notebook = read()
    execute(notebook, PATH.parent)
    nbformat.write(notebook, PATH)


if __name__ == "__main__":
    main()
