"""The table of docs/fidelity.md is that of today's recipes, and its tests exist."""

import re
import sys

import pytest
from shared_data import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))

import fidelity_table
from fidelity_lines import FAMILIES, LINES

pytestmark = pytest.mark.one_stack

PAGE = REPOSITORY / "docs" / "fidelity.md"


def test_the_page_has_the_table_of_todays_recipes():
    (written,) = re.findall(
        r"<!-- fidelity: begin -->\n(.*?)\n<!-- fidelity: end -->", PAGE.read_text(), re.DOTALL
    )
    assert written == fidelity_table.make_table(), (
        "run `python benchmarks/fidelity_table.py --output docs/fidelity.md`"
    )


@pytest.mark.parametrize("ingredient", sorted({line.ingredient for line in LINES}))
def test_an_ingredient_has_a_line_for_each_family(ingredient):
    lines = [line for line in LINES if line.ingredient == ingredient]
    for family in FAMILIES:
        heads = [line.head for line in lines if family in line.families]
        assert heads in ([None], ["noah"], ["noah", "gap"]), family


def test_the_tests_of_the_lines_exist():
    for line in LINES:
        path, name = line.test.split("::")
        assert f"\ndef {name}(" in (REPOSITORY / path).read_text(), line.test


def test_a_recipe_that_differs_without_a_word_raises():
    line = next(line for line in LINES if "optimizer.epsilon" in line.values)
    row, values = next(iter(fidelity_table.line_rows(line).items()))
    assert fidelity_table.verdict(line, {row: values}) == "equal"
    changed = {row: {**values, "optimizer.epsilon": 1e-7}}
    with pytest.raises(
        ValueError, match=f"{row} has optimizer.epsilon=1e-07, .* has 1e-08 for the"
    ):
        fidelity_table.verdict(line, changed)
    explained = line._replace(difference="another epsilon")
    assert fidelity_table.verdict(explained, changed) == "another epsilon"
