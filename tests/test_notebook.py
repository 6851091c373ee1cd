"""The notebook of docs/ is committed with the outputs of one run, and it runs."""

import re

import pytest
from stacks import slow_on_one_stack

for module in ("nbclient", "ipykernel"):
    pytest.importorskip(module, reason=f"{module} is not installed")

import finetune_notebook as notebook  # noqa: E402


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def test_committed_outputs_are_of_one_run():
    cells = code_cells(notebook.read())
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert "error" not in {output.output_type for output in outputs}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)
    text = notebook.PATH.read_text("utf-8")
    assert "/tmp/" not in text and "/home/" not in text
    assert len(text) < 300_000


@slow_on_one_stack.with_args(minutes=1)
def test_notebook_runs(tmp_path):
    nb = notebook.read()
    expected = [len(cell.outputs) for cell in code_cells(nb)]
    notebook.execute(nb, tmp_path)
    cells = code_cells(nb)
    assert [len(cell.outputs) for cell in cells] == expected
    printed = "".join(
        output.text for cell in cells for output in cell.outputs if output.output_type == "stream"
    )
    (accuracy,) = re.findall(r"([\d.]+)% of 397 photos", printed)
    pointing = re.findall(r"^(?:attention|contribution): ([\d.]+)%$", printed, re.MULTILINE)
    assert float(accuracy) > 70
    # A random position is on the digit in 14 % of the photos.
    assert len(pointing) == 2 and all(float(share) > 50 for share in pointing)
    assert not list(tmp_path.iterdir())  # it writes to a temporary folder
