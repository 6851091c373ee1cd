"""What the subcommand predict makes of answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noah_tf.serving import ServingError
from noah_tf.serving.predict import refusal, row, shortened, table

ANSWER = {
    "classes": [2, 0, -1],
    "labels": ["blue", "red", ""],
    "probabilities": [0.75, 0.2, 0.0],
    "logits": [1.0, 0.0, 2.0],
}


def test_a_line_has_classes_with_probabilities_without_filling():
    assert row("a.jpg", ANSWER) == ("a.jpg", "blue 75.0%, red 20.0%", "", "")
    assert row("a.jpg", ANSWER, top_k=1) == ("a.jpg", "blue 75.0%", "", "")


def test_a_bad_photo_of_a_tolerant_export():
    bad = {"classes": [-1], "labels": [""], "probabilities": [0.0], "status": "it is empty"}
    assert row("a.jpg", bad) == ("a.jpg", "none", "", "it is empty")


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.tuples(*[st.floats(0, 0.5)] * 2),
    st.tuples(*[st.floats(0.5, 1)] * 2),
    st.data(),
)
def test_where_it_looked_is_the_middle_of_the_strongest_cell(height, width, start, end, data):
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    attention = np.zeros((height, width, 3))
    attention[y, x, 0] = 1
    attention[0, 0, 1:] = 1
    answer = {**ANSWER, "attention": attention.tolist(), "region": [*start, *end]}
    down = start[0] + (y + 0.5) / height * (end[0] - start[0])
    across = start[1] + (x + 0.5) / width * (end[1] - start[1])
    assert row("a.jpg", answer)[2] == f"{down:.0%} down, {across:.0%} across"


def test_maps_are_shortened_with_their_classes():
    attention = np.arange(2 * 2 * 3).reshape(2, 2, 3)
    answer = {**ANSWER, "attention": attention.tolist(), "region": [0, 0, 1, 1]}
    short = shortened(answer)
    assert short["classes"] == [2, 0]
    np.testing.assert_array_equal(short["attention"], attention[..., :2])
    assert short["logits"] == ANSWER["logits"]
    assert shortened(answer, 1)["labels"] == ["blue"]
    assert answer["classes"] == [2, 0, -1]


def test_the_table_leaves_out_columns_that_are_empty():
    lines = table([("a.jpg", "blue 75.0%", "", ""), ("longer.jpg", "none", "", "")]).splitlines()
    assert lines == ["file        classes", "a.jpg       blue 75.0%", "longer.jpg  none"]
    assert "status" in table([("a.jpg", "none", "", "it is empty")])


def test_an_answer_without_labels_has_no_table():
    with pytest.raises(ServingError, match="has scores, and a table needs labels .*--format json"):
        row("a.jpg", {"scores": [1]})


def test_a_refusal_names_the_photos_by_their_rows():
    error = ServingError("row 1 is bad (HTTP 400).", "HTTP 400", refused=True)
    assert refusal(error, ["a.jpg"]) == "The server refused a.jpg: row 1 is bad (HTTP 400)."
    assert refusal(error, ["a.jpg", "b.jpg"]) == (
        "The server refused a batch of 2 photos (0: a.jpg, 1: b.jpg): row 1 is bad (HTTP 400)."
    )
