"""The rows that the subcommand predict makes of the answers of a server."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noah_tf.serving import ServingError
from noah_tf.serving.predict import best_classes, format_table, predict_files, table_row

pytestmark = pytest.mark.one_stack

ANSWER = {
    "classes": [2, 0, -1],
    "labels": ["blue", "red", ""],
    "probabilities": [0.75, 0.2, 0.0],
    "logits": [1.0, 0.0, 2.0],
}


def test_a_row_has_the_classes_with_their_probabilities():
    assert table_row("a.jpg", ANSWER) == ("a.jpg", "blue 75.0%, red 20.0%", "", "")
    assert table_row("a.jpg", ANSWER, top_k=1) == ("a.jpg", "blue 75.0%", "", "")


def test_a_row_has_the_status_of_a_bad_photo():
    bad = {"classes": [-1], "labels": [""], "probabilities": [0.0], "status": "it is empty"}
    assert table_row("a.jpg", bad) == ("a.jpg", "none", "", "it is empty")


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.tuples(*[st.floats(0, 0.5)] * 2),
    st.tuples(*[st.floats(0.5, 1)] * 2),
    st.data(),
)
def test_a_row_has_the_center_of_the_cell_with_most_attention(height, width, start, end, data):
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    attention = np.zeros((height, width, 3))
    attention[y, x, 0] = 1
    attention[0, 0, 1:] = 1
    answer = {**ANSWER, "attention": attention.tolist(), "region": [*start, *end]}
    down = start[0] + (y + 0.5) / height * (end[0] - start[0])
    across = start[1] + (x + 0.5) / width * (end[1] - start[1])
    assert table_row("a.jpg", answer)[2] == f"{down:.0%} down, {across:.0%} across"


def test_best_classes_selects_the_attention_maps_too():
    attention = np.arange(2 * 2 * 3).reshape(2, 2, 3)
    answer = {**ANSWER, "attention": attention.tolist(), "region": [0, 0, 1, 1]}
    best = best_classes(answer)
    assert best["classes"] == [2, 0]
    np.testing.assert_array_equal(best["attention"], attention[..., :2])
    assert best["logits"] == ANSWER["logits"]
    assert best_classes(answer, 1)["labels"] == ["blue"]
    assert answer["classes"] == [2, 0, -1]


def test_the_table_omits_empty_columns():
    rows = [("a.jpg", "blue 75.0%", "", ""), ("longer.jpg", "none", "", "")]
    assert format_table(rows).splitlines() == [
        "file        classes",
        "a.jpg       blue 75.0%",
        "longer.jpg  none",
    ]
    assert "status" in format_table([("a.jpg", "none", "", "it is empty")])


def test_an_answer_without_labels_has_no_table():
    with pytest.raises(ServingError, match="needs .* labels .*got scores: .*--format json"):
        table_row("a.jpg", {"scores": [1]})


class RefusingClient:
    """A client whose server refuses every request with a bad photo, with one kind of error."""

    def __init__(self, kind):
        self.kind, self.batch_sizes = kind, []

    def predict(self, images, signature):
        self.batch_sizes.append(len(images))
        if b"bad" in images:
            raise ServingError("invalid data.", self.kind, refused=True)
        return [(signature, image) for image in images]


@pytest.mark.parametrize("kind", ["HTTP 400", "INVALID_ARGUMENT", "request too large"])
def test_the_photos_of_a_refused_batch_are_sent_one_by_one(kind, tmp_path):
    files = [tmp_path / name for name in ("a", "bad", "c")]
    for file in files:
        file.write_text(file.name)
    client = RefusingClient(kind)
    (first, second, third) = predict_files(client, files, "explain")
    assert (first, third) == ((files[0], ("explain", b"a")), (files[2], ("explain", b"c")))
    assert second[0] == files[1] and isinstance(second[1], ServingError)
    assert client.batch_sizes == [3, 1, 1, 1]
    with pytest.raises(ServingError, match="invalid data"):
        list(predict_files(RefusingClient("HTTP 404"), files, "explain"))
