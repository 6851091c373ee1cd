"""Predictions as rows, as CSV and as JSON lines."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noah_tf.evaluation import AnswerOptions, Prediction, answer_rows, write_answers

NAMES = ("ant", "bee", "fly")


def rows_of(*logits, multi_label=False, **options):
    predictions = [
        Prediction(f"{number}.jpg", "", np.array(row, np.float32))
        for number, row in enumerate(logits)
    ]
    return list(answer_rows(predictions, NAMES, multi_label, AnswerOptions(**options)))


def test_single_label():
    (row,) = rows_of([0.0, np.log(2), np.log(5)], top_k=2)
    assert row == {
        "file": "0.jpg",
        "error": "",
        "class_1": "fly",
        "probability_1": pytest.approx(5 / 8),
        "class_2": "bee",
        "probability_2": pytest.approx(2 / 8),
    }
    assert len(rows_of([1, 2, 3], top_k=50)[0]) == 2 + 2 * 3


def test_multi_label():
    several, none = rows_of([2, -3, 0.5], [-1, -2, -900], multi_label=True, threshold=0.6)
    assert several["classes"] == ["ant", "fly"]
    assert several["probabilities"] == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-0.5))])
    assert none["classes"] == none["probabilities"] == []


@given(st.lists(st.floats(-300, 300, width=32), min_size=3, max_size=3))
def test_probabilities_are_those_of_the_softmax(logits):
    (row,) = rows_of(logits, top_k=3)
    probabilities = [row[f"probability_{rank}"] for rank in (1, 2, 3)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert logits[NAMES.index(row["class_1"])] == pytest.approx(max(logits), abs=1e-6)


def written(rows, as_json=False):
    file = io.StringIO()
    write_answers(rows, file, as_json)
    return file.getvalue()


def test_csv_and_json_lines():
    predictions = [
        Prediction("a,b.jpg", "", np.array([0, 0, 9], np.float32)),
        Prediction("bad.jpg", "it is empty"),
    ]
    rows = list(answer_rows(predictions, NAMES, False, AnswerOptions(top_k=1)))
    text = written(rows)
    assert text.splitlines()[1:] == ['"a,b.jpg",,fly,0.999753', "bad.jpg,it is empty,,"]
    assert [row["file"] for row in csv.DictReader(io.StringIO(text))] == ["a,b.jpg", "bad.jpg"]
    lines = [json.loads(line) for line in written(rows, as_json=True).splitlines()]
    assert lines == rows and lines[1]["class_1"] is None
    rows = rows_of([3, 2, -1], multi_label=True)
    assert written(rows).splitlines()[1] == "0.jpg,,ant|bee,0.952574|0.880797"
    assert json.loads(written(rows, as_json=True))["classes"] == ["ant", "bee"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top_k": 0}, "top_k must be at least 1, got 0"), ({"threshold": 1.5}, "from 0 to 1, got 1")],
)
def test_options_out_of_range_raise(options, message):
    with pytest.raises(ValueError, match=message):
        AnswerOptions(**options)
