"""Model cards: the front matter contains every given fact, and no other."""

import datetime
import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import noah_tf
from noah_tf import attach_noah
from noah_tf.export.model_card import (
    CARD_FILE,
    CardFacts,
    model_card,
    read_card,
    running_versions,
)
from noah_tf.export.variants import Agreement
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.runs.workdir import Workdir

pytestmark = pytest.mark.one_stack

ODD_NAMES = [
    'rose: "red"',
    "tulip|\n---\n# no title",
    "---",
    "...",
    "",
    " ",
    "no",
    "null",
    "1e3",
    "0x1f",
    "2024-01-02",
    "12:30:45",
    "<<",
    "=",
    "- a",
    "? b",
    "&c *d !e %f @g `h` {i} [j], k",
    "ros\u2028é\x85\r\n\t\ufeff",
    "薔薇 🌹",
    "\\n",
    "'",
    "#",
]


def text_of(name, **facts):
    return model_card(CardFacts(name, **facts))


def round_trip(tmp_path, text):
    path = tmp_path / CARD_FILE
    path.write_text(text, encoding="utf-8")
    return read_card(path)


def markdown_of(text):
    """Returns the part below the front matter, with single spaces."""
    return " ".join(text.split("\n---\n", 1)[1].split())


@pytest.fixture(scope="module")
def model():
    inputs = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Conv2D(8, 3)(inputs)
    x = tf.keras.layers.BatchNormalization()(x)
    return attach_noah(tf.keras.Model(inputs, x), 3, num_groups=2, key_ratio=0.5)


FACTS = {
    "preprocessing": Preprocessing(image_size=8, resize_size=10),
    "class_names": ["a", "b", "c"],
    "signatures": ["serving_default", "serve_tensor", "explain"],
    "precision": "mixed_bfloat16",
    "limits": {"max_pixels": 20_000_000, "tolerant": True, "tolerant_cost": 11.5},
    "variants": {"saved_model.pb": Agreement(50, 1.0, 1e-6), "m.onnx": Agreement(50, 0.98, 0.31)},
    "weights": "noah.pth.tar",
    "data": {
        "name": "digit_scenes",
        "train_split": "train",
        "eval_split": "test",
        "train_examples": 10_000,
    },
    "recipe": {"seed": 3, "model": {"num_groups": None, "strides": (1, 2)}, "rate": 1e-5},
    "metrics": {"examples": 2000, "loss": 0.25, "top1": 0.9685, "top5": 1.0, "steps": 468},
    "versions": {"noah_tf": "0.1.0", "tensorflow": "2.21.0", "python": "3.10"},
    "created": datetime.datetime(2024, 1, 2, 4, 4, 5, 9, datetime.timezone.utc),
}


def test_front_matter_contains_all_given_facts(model, tmp_path):
    card = round_trip(tmp_path, text_of("flowers", model=model, **FACTS))
    assert card == {
        "name": "flowers",
        "library_name": "noah_tf",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "tensorflow", "keras", "noah", "arxiv:2402.02377"],
        "datasets": ["digit_scenes"],
        "model-index": [
            {
                "name": "flowers",
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image Classification"},
                        "dataset": {
                            "type": "digit_scenes",
                            "name": "digit_scenes",
                            "split": "test",
                        },
                        "metrics": [
                            {"type": "accuracy", "name": "Top-1 accuracy", "value": 0.9685},
                            {"type": "top_5_accuracy", "name": "Top-5 accuracy", "value": 1.0},
                        ],
                    }
                ],
            }
        ],
        "created": "2024-01-02T04:04:05+00:00",
        "weights": "noah.pth.tar",
        "precision": "mixed_bfloat16",
        "data": {**FACTS["data"], "num_classes": 3, "classes": ["a", "b", "c"]},
        "recipe": {
            "seed": 3,
            "config": {"seed": 3, "model": {"num_groups": None, "strides": [1, 2]}, "rate": 1e-5},
        },
        "metrics": FACTS["metrics"],
        # The convolution has 3*3*3*8 + 8 parameters and the normalization 4*8, half of which are
        # statistics. The head maps 2 groups of 2 + 2 channels to 3 classes, with 2 biases each.
        "parameters": {"total": 224 + 32 + 36, "trainable": 224 + 16 + 36, "head": 36},
        "head": {"kind": "noah", "num_groups": 2, "key_ratio": 0.5},
        "preprocessing": FACTS["preprocessing"].to_dict(),
        "signatures": ["serving_default", "serve_tensor", "explain"],
        "limits": FACTS["limits"],
        "variants": {
            "saved_model.pb": {"images": 50, "top1": 1.0, "largest_difference": 1e-6},
            "m.onnx": {"images": 50, "top1": 0.98, "largest_difference": 0.31},
        },
        "versions": FACTS["versions"],
    }
    assert Preprocessing.from_dict(card["preprocessing"]) == FACTS["preprocessing"]


def test_markdown_describes_the_preprocessing():
    preprocessing = Preprocessing(image_size=(8, 6), stretch=True, exif_rotation=True)
    assert (
        "it rotates the photo upright according to its EXIF data, stretches the photo to the "
        "aspect ratio of 8 x 6 pixels, resizes the photo (bilinear) so that its shorter side has 6"
    ) in markdown_of(text_of("flowers", preprocessing=preprocessing))


def test_markdown_states_the_same_facts(model):
    text = text_of("flowers", model=model, **FACTS)
    assert text == text_of("flowers", model=model, **FACTS)
    markdown = markdown_of(text)
    for sentence in (
        "# flowers This model is an image classifier with a NOAH head (2 groups, key ratio 0.5).",
        "It has 292 parameters (276 trainable, 36 in the head). It computes in mixed_bfloat16. "
        "Its weights come from noah.pth.tar.",
        "curl -d @- http://localhost:8501/v1/models/flowers:predict",
        'model.signatures["serving_default"](image_bytes=photos)',
        "shorter side has 10 pixels, crops the central 8 x 8 pixels, scales the pixel values to "
        "0..1, subtracts [0.485, 0.456",
        "Data set: digit_scenes. Trained on the split train (10,000 examples). Evaluated on the",
        "Classes (3): a, b, c.",
        "| Top-1 accuracy | 96.85 % |",
        "| `m.onnx` | 98.0 % | 0.31 | 50 |",
        "A photo with more than 20,000,000 pixels is rejected",
        "a request of 16 photos takes 11.5 times the CPU time of an export that rejects the",
        "[arXiv 2402.02377](https://arxiv.org/abs/2402.02377)",
        "on 2024-01-02T04:04:05+00:00, with noah_tf 0.1.0, tensorflow 2.21.0, python 3.10.",
    ):
        assert sentence in markdown, markdown


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (
            {"kind": "single_label", "top_k": 5},
            "Each photo has one class. The signatures return the 5 most probable classes",
        ),
        (
            {"kind": "multi_label", "threshold": 0.25},
            "return every class with a probability of at least 0.25",
        ),
    ],
)
def test_markdown_says_which_classes_are_returned(answers, sentence):
    assert sentence in markdown_of(text_of("flowers", answers=answers))


def test_unknown_facts_are_left_out(tmp_path):
    text = text_of("model")
    assert set(round_trip(tmp_path, text)) == {"name", "library_name", "pipeline_tag", "tags"}
    assert "NOAH" not in text
    assert "None" not in text
    assert "## How" not in text
    for name, fact in FACTS.items():
        text = text_of("model", **{name: fact})
        card = round_trip(tmp_path, text)
        assert len(card) > 4, name
        assert "None" not in markdown_of(text) and "nan" not in markdown_of(text)


def test_models_without_noah_head(model, tmp_path):
    inputs = tf.keras.Input((8, 8, 3))
    plain = attach_noah(tf.keras.Model(inputs, tf.keras.layers.Conv2D(8, 3)(inputs)), 3, head="gap")
    card = round_trip(tmp_path, text_of("plain", model=plain))
    assert card["head"] == {"kind": "gap"}
    assert card["parameters"] == {"total": 224 + 27, "trainable": 224 + 27, "head": 27}
    assert "noah" not in card["tags"] and "arXiv" not in text_of("plain", model=plain)
    bare = text_of("bare", model=tf.keras.Model(inputs, tf.keras.layers.Conv2D(8, 3)(inputs)))
    card = round_trip(tmp_path, bare)
    assert "head" not in card and card["parameters"] == {"total": 224, "trainable": 224}


def test_zoo_model_with_checkpoint(tmp_path):
    name = "noah_mobilenetv2_035"
    model = noah_tf.create_model(name, input_shape=(64, 64, 3))
    preprocessing = noah_tf.models.zoo.preprocessing_for(name, 64)
    text = text_of(
        name, model=model, architecture=name, weights="a.pth", preprocessing=preprocessing
    )
    card = round_trip(tmp_path, text)
    assert (
        card["parameters"]["trainable"]
        == noah_tf.models.zoo.ARCHITECTURES[name[5:]].noah_parameters
    )
    assert (card["architecture"], card["weights"]) == (name, "a.pth")
    assert "datasets" not in card and "metrics" not in card and "model-index" not in card


def test_run_facts(finished_run, tmp_path):
    workdir = Workdir(finished_run)
    result, config = workdir.result(), workdir.config()
    text = text_of(
        "shapes",
        class_names=list(workdir.data().class_names),
        data={"name": config.data.name, "eval_split": config.data.eval_split},
        recipe=config,
        metrics=result,
        versions=running_versions(),
    )
    card = round_trip(tmp_path, text)
    assert card["recipe"]["config"] == json.loads(config.to_json())
    assert card["recipe"]["seed"] == config.seed
    assert card["metrics"] == result
    assert card["versions"]["tensorflow"] == tf.__version__
    # A folder of photos is not a published data set.
    assert card["data"]["name"] == "folder" and "datasets" not in card


def test_odd_names_survive_and_stay_on_one_line(tmp_path):
    text = text_of("od`d\n# name", class_names=ODD_NAMES, data={"name": "a\n## b|<script>"})
    card = round_trip(tmp_path, text)
    assert card["data"]["classes"] == ODD_NAMES
    assert card["name"] == "od`d\n# name"
    assert card["data"]["name"] == "a\n## b|<script>"
    body = text.split("\n---\n", 1)[1]
    titles = [line for line in body.splitlines() if line.startswith("#")]
    assert titles == ["# od\\`d \\# name", "## Training data", "## Limitations", "## Source"]
    assert "\\<script\\>" in body


PLAIN_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(ODD_NAMES),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(name=st.text(), class_names=st.lists(st.text(), min_size=1, max_size=5), value=PLAIN_VALUES)
@example(name="a", class_names=ODD_NAMES, value={"<<": {"=": "="}, "": [[], {}, None]})
def test_any_data_round_trips(tmp_path_factory, name, class_names, value):
    folder = tmp_path_factory.mktemp("card")
    text = text_of(name, class_names=class_names, recipe={"value": value}, metrics={"x": 1})
    card = round_trip(folder, text)
    assert read_card(folder) == card
    assert card["name"] == name
    assert card["data"] == {"num_classes": len(class_names), "classes": class_names}
    assert card["recipe"] == {"config": {"value": value}}
    # Other programs find the front matter by its two lines of ---.
    front_matter = text.removeprefix("---\n").split("\n---\n", 1)[0]
    assert yaml.safe_load(front_matter) == card


def test_numpy_and_tensorflow_values_become_plain(tmp_path):
    metrics = {
        "top1": np.float32(0.5),
        "loss": tf.constant(0.25),
        "examples": np.int64(7),
        "per_class": np.array([0.5, 1.0]),
        "path": pathlib.PurePosixPath("a/b"),
        "worst": float("nan"),
        "name": np.str_("yes"),
    }
    card = round_trip(tmp_path, text_of("model", metrics=metrics))
    assert math.isnan(card["metrics"].pop("worst"))
    assert card["metrics"] == {
        "top1": 0.5,
        "loss": 0.25,
        "examples": 7,
        "per_class": [0.5, 1.0],
        "path": "a/b",
        "name": "yes",
    }
    with pytest.raises(TypeError, match=r"got metrics.f\[1\]=<object object"):
        text_of("model", metrics={"f": [1, object()]})
    with pytest.raises(ValueError, match="created must have a time zone, got 2024-01-02 03:00:00"):
        text_of("model", created=datetime.datetime(2024, 1, 2, 3))
    zone = datetime.timezone(datetime.timedelta(hours=2))
    created = datetime.datetime(2024, 1, 2, 3, tzinfo=zone)
    card = round_trip(tmp_path, text_of("model", created=created))
    assert card["created"] == "2024-01-02T01:00:00+00:00"


def test_invalid_card_files_raise(tmp_path):
    path = tmp_path / CARD_FILE
    with pytest.raises(FileNotFoundError, match=f"no model card at .*{CARD_FILE}"):
        read_card(tmp_path)
    for text in ("# title\n", "", "---\nname: a\n", "text\n---\nname: a\n---\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="has no front matter: a model card begins"):
            read_card(path)
    path.write_text("---\nname: [a\n---\n")
    with pytest.raises(ValueError, match="The front matter of .* is not valid YAML: while parsing"):
        read_card(path)
    path.write_text("---\n- a\n---\n")
    with pytest.raises(ValueError, match="must be a mapping, got list"):
        read_card(path)
    path.write_text("---\nname: !!python/object/apply:os.getcwd []\n---\n")
    with pytest.raises(ValueError, match="is not valid YAML: could not determine a constructor"):
        read_card(path)
