"""What the subcommand predict makes of answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noah_tf.serving import ServingError
from noah_tf.serving.predict import answered, row, shortened, table

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


class Refusing:
    """A client whose server refuses every request with a bad photo, by this kind of error."""

    def __init__(self, kind):
        self.kind, self.asked = kind, []

    def predict(self, images, signature):
        self.asked.append(len(images))
        if b"bad" in images:
            raise ServingError("invalid data.", self.kind, refused=True)
        return [(signature, image) for image in images]


@pytest.mark.parametrize("kind", ["HTTP 400", "INVALID_ARGUMENT"])
def test_a_refused_batch_is_asked_photo_by_photo(kind, tmp_path):
    files = [tmp_path / name for name in ("a", "bad", "c")]
    for file in files:
        file.write_text(file.name)
    client = Refusing(kind)
    (first, second, third) = answered(client, files, "explain")
    assert (first, third) == ((files[0], ("explain", b"a")), (files[2], ("explain", b"c")))
    assert second[0] == files[1] and isinstance(second[1], ServingError)
    assert client.asked == [3, 1, 1, 1]
    with pytest.raises(ServingError, match="invalid data"):
        list(answered(Refusing("HTTP 404"), files, "explain"))
