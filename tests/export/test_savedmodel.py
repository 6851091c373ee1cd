"""SavedModels: the logits are those of the evaluation, from bytes and from pixels."""

import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from head_helpers import run_python
from hostile_images import exif
from loaded_graph import loaded_graph, run_graph
from photos import encoded, noise, smooth
from stacks import slow_on_one_stack

from noah_tf import attach_noah, export_savedmodel
from noah_tf.explain.run import Explainer
from noah_tf.export.from_run import export_run
from noah_tf.export.model_card import read_card
from noah_tf.export.warmup import read_requests
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.runs.checkpoint import load_run

NAMES = ("a", "b", "Ä b", "d,e", '"', " f")
PREPROCESSING = Preprocessing(
    image_size=24, resize_size=30, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
)
FILES = (
    encoded(smooth(40, 50), "JPEG"),
    encoded(noise(31, 90), "JPEG", "L"),
    encoded(noise(31, 33), "JPEG", "CMYK"),
    encoded(noise(24, 24), "PNG"),
    encoded(noise(10, 12), "BMP"),
    encoded(noise(50, 20), "GIF"),
)


def small_model(tokens=False, **options):
    inputs = tf.keras.Input((24, 24, 3))
    features = tf.keras.layers.Conv2D(16, 5, strides=4, activation="relu")(inputs)
    if tokens:
        features = tf.keras.layers.Reshape((25, 16))(features)
    options = {"num_classes": 6, "dropout": 0.5, **options}
    return attach_noah(tf.keras.Model(inputs, features), **options)


def expected_logits(model, files, preprocessing=PREPROCESSING):
    images = [preprocessing.evaluation(preprocessing.decode(data)) for data in files]
    return model(tf.stack(images), training=False).numpy()


@pytest.fixture(scope="module")
def model():
    tf.keras.utils.set_random_seed(0)
    return small_model()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    """Returns the folder of an exported version."""
    folder = tmp_path_factory.mktemp("served") / "shapes"
    return export_savedmodel(
        model, folder, PREPROCESSING, NAMES, max_pixels=5000, warmup_batch_sizes=(1, 4)
    )


@pytest.fixture(scope="module")
def tolerant(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "shapes"
    return tf.saved_model.load(
        str(export_savedmodel(model, folder, PREPROCESSING, NAMES, tolerant=True, max_pixels=5000))
    )


@pytest.fixture(scope="module")
def served(path):
    return tf.saved_model.load(str(path))


@slow_on_one_stack
def test_bytes_of_any_format_and_size_match_evaluation(served, model):
    answer = served.signatures["serving_default"](image_bytes=tf.constant(FILES))
    expected = expected_logits(model, FILES)
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
    order = np.argsort(-expected, axis=1)[:, :5]
    np.testing.assert_array_equal(answer["classes"], order)
    probabilities = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        answer["probabilities"], np.take_along_axis(probabilities, order, 1), atol=1e-5
    )
    labels = [[NAMES[index].encode() for index in row] for row in order]
    np.testing.assert_array_equal(answer["labels"], labels)


def test_tensors_match_evaluation(served, model):
    images = tf.constant(np.stack([noise(40, 50, seed=seed) for seed in range(3)]))
    answer = served.signatures["serve_tensor"](images=images)
    prepared = tf.stack([PREPROCESSING.evaluation(image) for image in images])
    np.testing.assert_allclose(answer["logits"], model(prepared, training=False), atol=1e-5)


@slow_on_one_stack
@pytest.mark.parametrize("tokens", [False, True])
def test_explain_returns_the_attention_of_the_best_classes(tmp_path, tokens):
    model = small_model(tokens)
    path = export_savedmodel(model, tmp_path / "m", PREPROCESSING, top_k=3, warmup_batch_sizes=())
    answer = run_graph(path, "explain", image_bytes=FILES)
    images = [PREPROCESSING.evaluation(PREPROCESSING.decode(data)) for data in FILES]
    logits, maps = Explainer(model)(tf.stack(images), answer["classes"])
    np.testing.assert_allclose(answer["logits"], logits, atol=1e-5)
    assert answer["attention"].shape == (len(FILES), 5, 5, 3)
    np.testing.assert_allclose(answer["attention"], maps, atol=1e-5)
    # The 40 x 50 photo is resized to 30 x 37 pixels, floor(50 * 30 / 40) = 37, and cropped to 24.
    np.testing.assert_allclose(answer["region"][0], [3 / 30, 6 / 37, 27 / 30, 30 / 37], atol=1e-6)


@pytest.mark.slow
def test_only_models_with_maps_have_the_signature_explain(tmp_path):
    assert "explain" not in signatures_of(small_model(head="gap", dropout=0.0), tmp_path / "gap")
    inputs = tf.keras.Input((24, 24, 3))
    tokens = tf.keras.layers.Reshape((30, 16))(
        tf.keras.layers.Dense(480)(tf.keras.layers.GlobalAveragePooling2D()(inputs))
    )
    model = attach_noah(tf.keras.Model(inputs, tokens), 4, drop_class_token=False)
    assert signatures_of(model, tmp_path / "odd") == {"serving_default", "serve_tensor", "embed"}


def signatures_of(model, folder):
    path = export_savedmodel(model, folder, PREPROCESSING, warmup_batch_sizes=())
    return set(tf.saved_model.load(str(path)).signatures)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (b"no photo", "image 1 of the request: .*not a"),
        (FILES[0][:300], "JPEG"),
        (encoded(noise(50, 101), "PNG"), "image 1 of the request: .*5050|101"),
    ],
)
def test_unreadable_photo_fails_a_strict_request_with_the_reason(served, data, problem):
    with pytest.raises(tf.errors.InvalidArgumentError, match=problem):
        served.signatures["serving_default"](image_bytes=tf.constant([FILES[0], data]))
    # The failure does not affect the next request.
    answer = served.signatures["serving_default"](image_bytes=tf.constant(FILES))
    assert np.isfinite(answer["logits"]).all()


def test_empty_request_raises(served):
    check_empty_requests(served)


@pytest.mark.slow
def test_empty_request_to_a_tolerant_export_raises(tolerant):
    check_empty_requests(tolerant)


def check_empty_requests(model):
    for name in ("serving_default", "explain"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes is empty"):
            model.signatures[name](image_bytes=tf.zeros((0,), tf.string))
    for shape in ((0, 24, 24, 3), (1, 0, 24, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="images is empty"):
            model.signatures["serve_tensor"](images=tf.zeros(shape, tf.uint8))


@pytest.mark.slow
def test_tolerant_export_classifies_the_readable_photos_of_a_request(tolerant, model):
    bad = {1: b"", 3: b"text", 4: FILES[0][:300], 6: encoded(noise(50, 101), "PNG")}
    files = [FILES[0], b"", FILES[3], b"text", bad[4], FILES[5], bad[6], FILES[1]]
    answer = tolerant.signatures["explain"](image_bytes=tf.constant(files))
    status = [text.decode() for text in answer["status"].numpy()]
    good = [row for row in range(len(files)) if row not in bad]
    assert [status[row] for row in good] == ["OK"] * 4
    assert "empty" in status[1] and "not a" in status[3] and "50" in status[6]
    assert status[4] == "it cannot be decoded: the file is truncated or corrupt"
    expected = expected_logits(model, [files[row] for row in good])
    np.testing.assert_allclose(answer["logits"].numpy()[good], expected, atol=1e-5)
    np.testing.assert_array_equal(answer["classes"].numpy()[good, 0], expected.argmax(1))
    np.testing.assert_allclose(answer["attention"].numpy()[good].sum((1, 2)), 1, atol=1e-5)
    rows = list(bad)
    assert (answer["classes"].numpy()[rows] == -1).all()
    assert (answer["labels"].numpy()[rows] == b"").all()
    for name in ("probabilities", "logits", "attention", "region"):
        assert not answer[name].numpy()[rows].any(), name


@pytest.mark.slow
def test_tolerant_export_with_only_unreadable_or_only_readable_photos(tolerant):
    answer = tolerant.signatures["serving_default"](image_bytes=tf.constant([b"x", b""]))
    assert b"OK" not in answer["status"].numpy()
    answer = tolerant.signatures["serving_default"](image_bytes=tf.constant(FILES[:1]))
    assert answer["status"].numpy().tolist() == [b"OK"]
    assert "status" not in tolerant.signatures["serve_tensor"].structured_outputs


@pytest.mark.slow
def test_multi_label_export_returns_the_classes_over_the_threshold(model, tmp_path):
    options = {"multi_label": True, "class_names": NAMES, "warmup_batch_sizes": ()}
    path = export_savedmodel(model, tmp_path, PREPROCESSING, threshold=0.5, **options)
    answer = run_graph(path, "serving_default", image_bytes=FILES)
    scores = 1 / (1 + np.exp(-answer["logits"]))
    counts = (scores >= 0.5).sum(axis=1)
    assert answer["classes"].shape == (len(FILES), max(counts.max(), 1))
    assert len(set(counts)) > 1
    for row, count in enumerate(counts):
        best = np.argsort(-scores[row])[:count]
        assert answer["classes"][row].tolist() == [*best, *[-1] * (counts.max() - count)]
        np.testing.assert_allclose(answer["probabilities"][row, :count], scores[row, best], 1e-5)
        assert not answer["probabilities"][row, count:].any()
        labels = [NAMES[index].encode() for index in best]
        assert answer["labels"][row].tolist() == [*labels, *[b""] * (counts.max() - count)]
    path = export_savedmodel(model, tmp_path, PREPROCESSING, threshold=1.0, **options)
    assert run_graph(path, "explain", image_bytes=FILES)["classes"].tolist() == [[-1]] * len(FILES)


def test_graph_contains_only_tensorflow_ops_and_no_xla(path):
    check_ops(path)
    names = (path / "assets" / "labels.txt").read_text(encoding="utf-8").split("\n")
    assert names == [*NAMES, ""]


@pytest.mark.slow
def test_grouped_convolutions_are_exported_without_xla(tmp_path):
    # Keras compiles grouped convolutions with XLA.
    inputs = tf.keras.Input((24, 24, 3))
    features = tf.keras.layers.Conv2D(16, 5, strides=4)(inputs)
    features = tf.keras.layers.Conv2D(16, 3, groups=4)(features)
    model = attach_noah(tf.keras.Model(inputs, features), 6)
    grouped = export_savedmodel(model, tmp_path, PREPROCESSING, warmup_batch_sizes=())
    check_ops(grouped)
    answer = run_graph(grouped, "explain", image_bytes=FILES)
    np.testing.assert_allclose(answer["logits"], expected_logits(model, FILES), atol=1e-5)


def definition_of(path):
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        definition = tf.compat.v1.saved_model.load(session, ["serve"], str(path)).graph_def
    functions = definition.library.function
    return definition, [*definition.node, *(n for f in functions for n in f.node_def)]


def check_ops(path):
    definition, nodes = definition_of(path)
    kinds = {node.op for node in nodes}
    assert len(kinds) > 20
    known = set(dir(tf.raw_ops)) | {f.signature.name for f in definition.library.function}
    assert not {kind for kind in kinds if kind not in known}
    assert not [kind for kind in kinds if "Py" in kind]
    marked = [*nodes, *definition.library.function]
    assert not [node for node in marked if node.attr["_XlaMustCompile"].b]


@pytest.mark.slow
def test_every_warmup_request_is_answered(path):
    requests = list(read_requests(path))
    names = ("serving_default", "serve_tensor", "embed", "explain")
    expected = {(name, size) for name in names for size in (1, 4)}
    assert {(name, len(next(iter(inputs.values())))) for name, inputs in requests} == expected
    with loaded_graph(path) as call:
        for name, inputs in requests:
            assert np.isfinite(call(name, **inputs)["logits"]).all()


def test_export_loads_without_noah_tf(path):
    code = f"""
import sys
import tensorflow as tf
loaded = tf.saved_model.load({str(path)!r})
photo = tf.io.encode_png(tf.zeros((30, 30, 3), tf.uint8))
answer = loaded.signatures["serving_default"](image_bytes=photo[None])
assert "noah_tf" not in sys.modules
print(answer["logits"].shape, answer["labels"].numpy()[0])
"""
    process = run_python(code)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.startswith("(1, 6)")


def test_existing_version_raises_before_any_work(model, tmp_path):
    (tmp_path / "7").mkdir()
    with pytest.raises(ValueError, match="/7 already exists and is not replaced: .* to write 8"):
        export_savedmodel(model, tmp_path, version=7)
    assert not list((tmp_path / "7").iterdir()) and len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_model_that_ends_in_its_activation_is_exported_from_its_logits(activation, tmp_path):
    model = small_model(activation=activation)
    expected = expected_logits(model, FILES[:2])  # probabilities
    path = export_savedmodel(
        model,
        tmp_path,
        PREPROCESSING,
        NAMES,
        **({"multi_label": True, "threshold": 0.0} if activation == "sigmoid" else {"top_k": 6}),
        warmup_batch_sizes=(),
    )
    functions = tf.saved_model.load(str(path)).signatures
    assert set(functions) == {"serving_default", "serve_tensor", "explain", "embed"}
    answer = functions["serving_default"](image_bytes=tf.constant(FILES[:2]))
    probabilities = np.take_along_axis(expected, answer["classes"].numpy(), axis=1)
    np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-6)
    np.testing.assert_allclose(getattr(tf.nn, activation)(answer["logits"]), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "multi_label", "message"),
    [
        ("softmax", True, "ends in softmax gives a photo one class, got multi_label=True"),
        ("sigmoid", False, "ends in sigmoid gives a photo several classes, .* --multi_label on"),
        ("tanh", False, "got one that ends in the activation 'tanh': export the model without it"),
    ],
)
def test_activation_that_is_not_that_of_the_labels_raises(
    activation, multi_label, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        export_savedmodel(small_model(activation=activation), tmp_path, multi_label=multi_label)


def test_model_with_other_inputs_than_images_raises(tmp_path):
    model = small_model()
    age = tf.keras.Input((1,))
    both = tf.keras.layers.Concatenate()([model.outputs[0], age])
    with pytest.raises(
        ValueError,
        match=r"one input, images \(B, H, W, C\), got 2 of the shape \(None, 24, 24, 3\) and "
        r"\(None, 1\): export a model that takes only the images",
    ):
        export_savedmodel(tf.keras.Model([*model.inputs, age], both), tmp_path)
    vectors = tf.keras.Sequential([tf.keras.Input((5,)), tf.keras.layers.Dense(6)])
    with pytest.raises(ValueError, match=r"got 1 of the shape \(None, 5\)"):
        export_savedmodel(vectors, tmp_path)
    assert not list(tmp_path.iterdir())


def test_model_with_non_finite_logits_is_not_written(tmp_path):
    model = small_model()
    model.layers[-1].set_weights([weight * np.nan for weight in model.layers[-1].get_weights()])
    with pytest.raises(
        FloatingPointError, match="serving_default returns logits that are not finite"
    ):
        export_savedmodel(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_model_without_exactly_one_output_of_logits_raises(tmp_path):
    model = small_model()
    for outputs in ([*model.outputs, *model.outputs], [model.layers[1].output]):
        with pytest.raises(ValueError, match="An export needs one output of logits, .B, M., got"):
            export_savedmodel(tf.keras.Model(model.inputs, outputs), tmp_path)
    with pytest.raises(ValueError, match="An export needs a functional model"):
        export_savedmodel(Subclassed(), tmp_path)
    assert not list(tmp_path.iterdir())


class Subclassed(tf.keras.Model):
    """A subclassed model."""

    def call(self, images):
        return images[:, 0, 0]


@slow_on_one_stack
def test_number_of_photos_decoded_in_parallel_depends_on_max_pixels(path, model, tmp_path):
    large = export_savedmodel(
        model, tmp_path, PREPROCESSING, max_pixels=2**27, warmup_batch_sizes=()
    )
    for version, num_parallel in ((path, 10), (large, 1)):
        _, nodes = definition_of(version)
        # The graph leaves out the default, 10.
        loops = {n.attr["parallel_iterations"].i or 10 for n in nodes if "While" in n.op}
        assert num_parallel in loops and loops <= {num_parallel, 10}


@pytest.mark.slow
def test_model_without_input_size_needs_a_preprocessing(tmp_path):
    inputs = tf.keras.Input((None, None, 3))
    model = attach_noah(tf.keras.Model(inputs, tf.keras.layers.Conv2D(8, 3)(inputs)), 3)
    with pytest.raises(ValueError, match="preprocessing=Preprocessing"):
        export_savedmodel(model, tmp_path)
    path = export_savedmodel(model, tmp_path, Preprocessing(16), warmup_batch_sizes=(1,))
    assert path.name == "1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be a positive integer, got 0"),
        ({"class_names": ["a", "b"]}, "model's 6 classes, in the order of the logits, got 2 names"),
        ({"class_names": [*"abcde", "f\ng"]}, r"one line of text, got 'f\\ng' for class 5"),
        ({"class_names": [*"abcde", ""]}, "one line of text, got '' for class 5"),
        (
            {"threshold": 0.5},
            "option of multi-label models only, got threshold=0.5 for a single-label",
        ),
        (
            {"multi_label": True, "top_k": 5},
            "option of single-label models only, got top_k=5 for a multi-label model",
        ),
        (
            {"multi_label": True, "threshold": 1.5},
            r"threshold must be a probability in \[0, 1\], got 1.5",
        ),
        ({"max_pixels": 0}, "max_pixels must be a positive integer, got 0"),
        ({"max_pixels": 2**70}, "max_pixels must be at most 4294967296, got"),
        (
            {"preprocessing": Preprocessing(32)},
            r"shape \(24, 24, 3\), got a preprocessing for \(32, 32, 3\)",
        ),
        ({"warmup_batch_sizes": (1, 0)}, "each of warmup_batch_sizes must be a positive"),
        ({"precision": "float16"}, "precision must be one of float32, mixed_bfloat16, got 'float"),
        ({"variants": ("tflite",), "photos": [b""]}, "each of variants must be one of .*, got 'tf"),
        ({"variants": ("onnx",)}, "needs photos to compare the export with the float32 model"),
        (
            {"precision": "mixed_bfloat16"},
            "needs photos to compare the export with the float32 model",
        ),
        ({"photos": [FILES[0], b"text"]}, "with its model on photo 1 of 2: it is not a JPEG"),
        ({"photos": [FILES[0][:300]]}, "photo 0 of 1: it cannot be decoded"),
        (
            {"card": {"metric": {}}},
            "each key of card must be one of architecture, .*, got 'metric'",
        ),
        ({"photos": FILES, "max_pixels": 100}, "more than the 100 allowed. Give other photos"),
    ],
)
def test_invalid_options_raise(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_savedmodel(model, tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()


@slow_on_one_stack
def test_run_is_exported_with_its_own_preprocessing(finished_run, tmp_path):
    run = load_run(finished_run)
    path = export_run(finished_run, tmp_path / "shapes", warmup_batch_sizes=())
    loaded = tf.saved_model.load(str(path))
    image = tf.constant(noise(50, 40))
    answer = loaded.signatures["serve_tensor"](images=image[None])
    expected = run.model(run.preprocessing.evaluation(image)[None], training=False)
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
    assert answer["labels"].numpy()[0, 0].decode() in run.class_names
    assert isinstance(path, pathlib.Path)


@pytest.mark.slow
def test_bfloat16_export_is_compared_with_float32_and_keeps_float32_weights(model, tmp_path):
    options = {"precision": "mixed_bfloat16", "photos": FILES, "warmup_batch_sizes": ()}
    path = export_savedmodel(model, tmp_path, PREPROCESSING, **options)
    logits = run_graph(path, "serving_default", image_bytes=FILES)["logits"]
    difference = np.abs(logits - expected_logits(model, FILES)).max()
    assert 1e-6 < difference < 0.05 and logits.dtype == np.float32
    card = read_card(path)
    assert card["precision"] == "mixed_bfloat16"
    agreement = card["variants"]["saved_model.pb"]
    assert agreement["images"] == len(FILES)
    np.testing.assert_allclose(agreement["largest_difference"], difference, rtol=1e-3)
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    dtypes = reader.get_variable_to_dtype_map()
    cast = sorted(name for name, dtype in dtypes.items() if dtype == tf.bfloat16)
    assert [name.split("/")[-3] for name in cast] == ["key_kernel", "value_kernel"]
    assert tf.float32 in dtypes.values()


@pytest.mark.slow
def test_card_states_which_classes_are_returned(model, tmp_path):
    options = {"class_names": NAMES, "warmup_batch_sizes": ()}
    path = export_savedmodel(model, tmp_path, PREPROCESSING, top_k=9, **options)
    assert read_card(path)["answers"] == {"kind": "single_label", "top_k": 6}
    options |= {"multi_label": True, "threshold": 0.25}
    path = export_savedmodel(model, tmp_path, PREPROCESSING, **options)
    assert read_card(path)["answers"] == {"kind": "multi_label", "threshold": 0.25}
    assert "every class with a probability of at least 0.25" in (path / "MODEL_CARD.md").read_text()


@slow_on_one_stack
@pytest.mark.parametrize("is_tolerant", [False, True])
def test_export_stretches_photos(model, tmp_path, is_tolerant):
    preprocessing = dataclasses.replace(PREPROCESSING, resize_size=None, stretch=True)
    path = export_savedmodel(
        model, tmp_path, preprocessing, warmup_batch_sizes=(), tolerant=is_tolerant
    )
    answer = run_graph(path, "explain", image_bytes=FILES)
    np.testing.assert_allclose(
        answer["logits"], expected_logits(model, FILES, preprocessing), atol=1e-5
    )
    assert np.abs(answer["logits"] - expected_logits(model, FILES)).max() > 1e-3
    np.testing.assert_array_equal(answer["region"], [[0, 0, 1, 1]] * len(FILES))
    card = read_card(path)["preprocessing"]
    assert card["stretch"] is True and Preprocessing.from_dict(card) == preprocessing


@slow_on_one_stack
def test_export_rotates_photos(model, tmp_path):
    preprocessing = dataclasses.replace(PREPROCESSING, exif_rotation=True)
    path = export_savedmodel(model, tmp_path, preprocessing, warmup_batch_sizes=())
    data = FILES[0][:2] + exif(6) + FILES[0][2:]
    answer = run_graph(path, "explain", image_bytes=[data])
    np.testing.assert_allclose(
        answer["logits"], expected_logits(model, [data], preprocessing), atol=1e-5
    )
    assert np.abs(answer["logits"] - expected_logits(model, [data])).max() > 1e-3
    # The stored photo has 40 x 50 pixels, the upright one 50 x 40.
    np.testing.assert_allclose(answer["region"][0], [6 / 37, 3 / 30, 30 / 37, 27 / 30], atol=1e-6)
    assert read_card(path)["preprocessing"]["exif_rotation"] is True
