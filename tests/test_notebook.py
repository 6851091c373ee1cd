"""The notebook of docs/: committed as it ran, and it runs."""

import re

import pytest
from stacks import slow_on_one_stack

for module in ("nbclient", "ipykernel"):
    pytest.importorskip(module, reason=f"{module} is not installed")

import finetune_notebook as notebook  # noqa: E402


def code_cells(found):
    return [cell for cell in found.cells if cell.cell_type == "code"]


def test_it_is_committed_as_it_ran_from_top_to_bottom():
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
def test_it_runs(tmp_path):
    found = notebook.read()
    shown = [len(cell.outputs) for cell in code_cells(found)]
    notebook.execute(found, tmp_path)
    cells = code_cells(found)
    assert [len(cell.outputs) for cell in cells] == shown
    printed = "".join(
        output.text for cell in cells for output in cell.outputs if output.output_type == "stream"
    )
    (accuracy,) = re.findall(r"([\d.]+)% of 397 photos", printed)
    pointing = re.findall(r"^(?:attention|contribution): ([\d.]+)%$", printed, re.MULTILINE)
    assert float(accuracy) > 70
    # A cell chosen at random lies on the digit in 14 %.
    assert len(pointing) == 2 and all(float(share) > 50 for share in pointing)
    assert not list(tmp_path.iterdir())  # it writes to a folder of its own
