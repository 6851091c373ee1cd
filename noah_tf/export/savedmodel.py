"""SavedModels that take image files or pixels and give classes, with the preprocessing inside."""

import datetime
import json
import pathlib

import numpy as np
import tensorflow as tf

from noah_tf.datasets.registry import source_from_config
from noah_tf.datasets.source import random_order
from noah_tf.explain.explainer import Explainer
from noah_tf.export import warmup
from noah_tf.export.agreement import VARIANTS, cost, write_variants
from noah_tf.export.model_card import CARD_FILE, CardFacts, model_card, running_versions
from noah_tf.export.signatures import MAX_PIXELS, ServedModel
from noah_tf.export.variants import require_onnx
from noah_tf.export.versions import check_version, new_version
from noah_tf.head.inference import InferenceHead
from noah_tf.images import headers
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.models.feature_map import is_functional, layer_before
from noah_tf.models.inference import for_inference
from noah_tf.models.precision import in_precision
from noah_tf.runs.checkpoint import load_run
from noah_tf.utils.validation import check_positive_int, is_number

PRECISIONS = ("float32", "mixed_bfloat16")
_MOST_PIXELS = 2**32  # no format's header has sides of more but in vain


def export_savedmodel(
    model,
    model_dir,
    preprocessing=None,
    class_names=None,
    version=None,
    top_k=None,
    multi_label=False,
    threshold=None,
    tolerant=False,
    max_pixels=MAX_PIXELS,
    warmup_batch_sizes=(1, 8, 32),
    precision="float32",
    variants=(),
    photos=None,
    card=None,
):
    """Writes a model as the next version in a folder that TF Serving watches.

    The version appears in one rename: a server that polls the folder never sees half of it, and
    what is there already is never touched.

    Signatures:
        `serving_default` takes `image_bytes`, string (B,): JPEG (grayscale and CMYK, too), PNG,
        BMP, GIF (its first frame) and, where TensorFlow decodes it, still WebP, of any sizes.
        `serve_tensor` takes `images`, uint8 (B, H, W, 3).

        Both return `classes` int32 (B, k), the indices of the best classes, their `labels` (B, k)
        and `probabilities` (B, k), and the `logits` (B, M) of all. Where several labels can be
        true, the classes are those of at least `threshold`, and k is the largest number of them in
        the batch; rows with fewer end in class -1, label "", probability 0.

        `explain` takes `image_bytes` and returns also `attention` (B, h, w, k), which sums to 1
        over the positions, and `region` (B, 4): top, left, bottom and right of the part of the
        photo that the map covers, as shares of its sides. Only of models with a NOAH head over a
        feature map or a grid of square patches.

    Args:
        model: functional Keras model, images to logits.
        model_dir: folder of all versions, such as "saved_models/NAME".
        preprocessing: the `preprocess.Preprocessing` that the model was trained with; None for
            ImageNet's mean and standard deviation at the model's own input size.
        class_names: M names; None names the classes by their index.
        version: positive integer; None for the one after the highest there.
        top_k: how many classes to return, at most M, where one class is true; None for 5.
        multi_label: whether each class has a probability of its own (sigmoid, not softmax).
        threshold: the lowest probability with which a class of a multi-label model is returned;
            None for 0.5.
        tolerant: what a bad photo does. False: the request fails, and its message says what is
            wrong. True: the others are answered; there is one more output, `status` (B,), "OK" or
            what is wrong, and a bad row has class -1, label "", probabilities and logits 0.
        max_pixels: a photo with more counts as a bad one and is not decoded. Decoding takes 3 to
            11 bytes a pixel, of up to 2^27 / `max_pixels` photos (at most 10) of a request at a
            time.
        warmup_batch_sizes: sizes of the requests that TF Serving replays when it loads the
            version, for each signature; those of its batching configuration.
        precision: what the served model computes in, one of PRECISIONS; the softmax and all
            weights but the NOAH head's kernels stay float32.
        variants: which of VARIANTS to write beside the SavedModel: model_dynamic.tflite,
            model_int8.tflite, model.onnx. They take pixels of the centre crop and give logits.
        photos: encoded photos, or their paths, on which the SavedModel and its variants are
            compared with the float32 model, and on which int8 is calibrated (best a hundred or
            more). Needed where there are variants or `precision` is not float32.
        card: dict of what the version's MODEL_CARD.md shall say of data, recipe and metrics, see
            `model_card.model_card`; or None.

    Returns:
        `pathlib.Path` of the version's folder.

    Raises:
        ValueError: the version exists or is no positive integer, the names do not fit, the model
            does not end in one tensor of logits, or has no input size and no preprocessing is
            given, an option is out of its range, a photo cannot be compared on, or a variant's
            format lacks an op of the model.
        ImportError: ONNX is asked for, and the extra `onnx` is not installed.
        FloatingPointError: logits of the model or of a variant are not finite.

    Example:

    >>> path = noah_tf.export_savedmodel(model, "saved_models/flowers")
    >>> serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    >>> serve(image_bytes=tf.constant([tf.io.read_file("rose.jpg").numpy()]))["labels"]
    """
    check_version(model_dir, version)
    _check_model(model)
    if class_names is None:
        class_names = [str(index) for index in range(model.output_shape[-1])]
    _check_names(class_names, model.output_shape[-1])
    answers = _answers(multi_label, top_k, threshold, len(class_names))
    _check_options(max_pixels, warmup_batch_sizes, precision, variants, photos)
    if preprocessing is None:
        preprocessing = Preprocessing(image_size=_input_size(model))
    _check_size(model, preprocessing)
    photos = _readable(photos or (), preprocessing, max_pixels)
    name = pathlib.Path(model_dir).resolve().name
    computed = for_inference(in_precision(model, precision))
    options = {
        **{key: value for key, value in answers.items() if key != "kind"},
        "max_pixels": max_pixels,
        "explainer": _explainer(computed, preprocessing.image_size),
    }
    served = ServedModel(computed, preprocessing, class_names, tolerant=tolerant, **options)
    _try_out(served, preprocessing)
    limits = {"max_pixels": max_pixels, "tolerant": tolerant}
    with new_version(model_dir, version) as draft:
        tf.saved_model.save(served, str(draft.path), signatures=served.functions)
        if warmup_batch_sizes:
            requests = warmup.sample_requests(served.functions, warmup_batch_sizes, preprocessing)
            warmup.write_requests(draft.path, name, requests)
        if tolerant:
            strict = ServedModel(computed, preprocessing, class_names, **options)
            limits["tolerant_cost"] = cost(
                served, strict, photos or [warmup.sample_photo(preprocessing)]
            )
        agreements = {}
        if photos:
            agreements = write_variants(draft.path, model, preprocessing, variants, photos)
        (draft.path / CARD_FILE).write_text(
            model_card(
                CardFacts(
                    name,
                    model=model,
                    preprocessing=preprocessing,
                    class_names=class_names,
                    signatures=list(served.functions),
                    answers=answers,
                    precision=precision,
                    limits=limits,
                    variants=agreements,
                    versions=running_versions(),
                    created=datetime.datetime.now(datetime.timezone.utc),
                    **(card or {}),
                )
            ),
            encoding="utf-8",
        )
    return draft.path


def export_run(workdir, model_dir, version=None, weights="last", photos=None, **options):
    """Exports a state of a training run; see `export_savedmodel`.

    Args:
        workdir: the run's folder.
        model_dir: folder of all versions.
        version: positive integer; None for the next one.
        weights: "last", "ema" or "best", see `checkpoint.load_run`.
        photos: encoded photos to compare on, or their paths, or how many to take of the split
            that the run was evaluated on.
        **options: those of `export_savedmodel` that the run does not settle.

    Returns:
        `pathlib.Path` of the version's folder.

    Raises:
        FileNotFoundError: there is no such run, or no data to take photos of.
        ValueError: see `export_savedmodel`.
    """
    run = load_run(workdir, weights)
    if isinstance(photos, int):
        photos = _photos_of(run, photos)
    card = {
        "weights": f"step {run.step} of its run ({weights})",
        "architecture": run.config.model.architecture or run.config.model.backbone,
        "data": _data_of(run),
        "recipe": json.loads(run.config.to_json()),
        "metrics": _metrics_of(run, weights),
    }
    return export_savedmodel(
        run.model,
        model_dir,
        run.preprocessing,
        run.class_names,
        version,
        multi_label=run.multi_label,
        photos=photos,
        card=card,
        **options,
    )


def _data_of(run):
    data = run.config.data
    return {
        "name": data.name,
        "train_split": data.train_split,
        "eval_split": data.eval_split,
        "train_examples": run.workdir.data().train_examples,
    }


def _metrics_of(run, weights):
    """The run's evaluation of these weights, or None while there is none."""
    if weights == "best":
        return run.workdir.best()
    result = run.workdir.result()
    if result is None:
        return None
    averaged = {k[4:]: value for k, value in result.items() if k.startswith("ema_")}
    if weights == "ema":
        return averaged
    return {k: value for k, value in result.items() if not k.startswith("ema_")}


def _photos_of(run, count):
    if not count:
        return None
    data = run.config.data
    try:
        source = source_from_config(data, data.eval_split)
    except (ValueError, OSError) as error:
        raise FileNotFoundError(
            f"The export is to be compared with its model on photos of {data.name} "
            f"{data.eval_split}, which cannot be read: {error} Give other photos "
            "(--photos=FOLDER), or compare on none (--count=0)."
        ) from error
    places = random_order(0, size=source.num_examples)[:count]
    return [example["image"].numpy() for example in source.examples_at(places)]


def _try_out(served, preprocessing):
    """Asks what will be written, once: nothing is published that cannot answer."""
    for name, inputs in warmup.sample_requests(served.functions, (1,), preprocessing):
        answer = served.functions[name](*map(tf.constant, inputs.values()))
        if not np.isfinite(answer["logits"]).all():
            raise FloatingPointError(
                f"The signature {name} answers with logits that are not finite: the model's "
                "weights or its preprocessing are broken."
            )


def _answers(multi_label, top_k, threshold, num_classes):
    """What is in `classes`, as the model card says it."""
    if not multi_label:
        if threshold is not None:
            raise ValueError(
                f"threshold={threshold!r} is for models of several labels a photo: leave it out, "
                "top_k says how many classes are returned."
            )
        top_k = 5 if top_k is None else top_k
        check_positive_int("top_k", top_k)
        return {"kind": "single_label", "top_k": min(top_k, num_classes)}
    if top_k is not None:
        raise ValueError(
            f"top_k={top_k!r} is for models of one label a photo: leave it out, threshold says "
            "which classes are returned."
        )
    threshold = 0.5 if threshold is None else threshold
    if not is_number(threshold) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a probability in [0, 1], got {threshold!r}.")
    return {"kind": "multi_label", "threshold": threshold}


def _readable(photos, preprocessing, max_pixels):
    """The photos' bytes, after it was tried that each can be served."""
    read = []
    for index, photo in enumerate(photos):
        name = f"photo {index} of {len(photos)}" if isinstance(photo, bytes) else str(photo)
        data = photo if isinstance(photo, bytes) else pathlib.Path(photo).read_bytes()
        try:
            problem = headers.problem(data, max_pixels).numpy().decode()
            if not problem:
                preprocessing.decode(data)
        except tf.errors.InvalidArgumentError:
            problem = headers.UNDECODABLE
        if problem:
            raise ValueError(
                f"The export cannot be compared with its model on {name}: {problem}. Give other "
                "photos, or allow more pixels where it is those."
            )
        read.append(data)
    return read


def _check_model(model):
    if not is_functional(model):
        raise ValueError(
            f"An export needs a functional model, got a {type(model).__name__}: make it one with "
            "tf.keras.Model(inputs, outputs)."
        )
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        raise ValueError(
            f"An export needs one output of logits, (B, M), got {model.output_shape}: export the "
            "part of the model that gives them."
        )
    last = _last_layer(model)
    activation = getattr(last, "activation", None)
    if isinstance(last, tf.keras.layers.Softmax):
        activation = tf.keras.activations.softmax
    if activation not in (None, tf.keras.activations.linear):
        raise ValueError(
            f"The model ends in the activation {getattr(activation, '__name__', activation)!r}, "
            "and an export needs logits: attach the head with activation=None."
        )


def _last_layer(model):
    layer, _ = layer_before(model.outputs[0])
    return _last_layer(layer) if isinstance(layer, tf.keras.Model) else layer


def _check_names(class_names, num_classes):
    if len(class_names) != num_classes:
        raise ValueError(
            f"The model has {num_classes} classes, but class_names has {len(class_names)}: "
            "give one name a class, in the order of the logits."
        )
    for index, name in enumerate(class_names):
        if not name or "\n" in name or "\r" in name:
            raise ValueError(
                f"Class {index} is named {name!r}, and an export keeps one name a line: give it a "
                "name of one line."
            )


def _check_options(max_pixels, batch_sizes, precision, variants, photos):
    check_positive_int("max_pixels", max_pixels)
    if max_pixels > _MOST_PIXELS:
        raise ValueError(f"max_pixels must be at most {_MOST_PIXELS}, got {max_pixels}.")
    for size in batch_sizes:
        check_positive_int("each of warmup_batch_sizes", size)
    for name, values, known in (
        ("precision", (precision,), PRECISIONS),
        ("each of variants", variants, VARIANTS),
    ):
        for value in values:
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
    if not photos and (variants or precision != "float32"):
        compared = f"variants={tuple(variants)}" if variants else f"precision={precision!r}"
        raise ValueError(
            f"{compared} is compared with the float32 model on photos: give some, or a folder of "
            "them as --photos."
        )
    if "onnx" in variants:
        require_onnx()


def _input_size(model):
    size = tuple(model.input_shape[1:3])
    if None in size:
        raise ValueError(
            f"The model takes images of any size, {model.input_shape}: say which one to serve, as "
            "preprocessing=Preprocessing(image_size=(height, width)), or as --preprocessing."
        )
    return size


def _check_size(model, preprocessing):
    takes = tuple(model.input_shape[1:])
    gives = (*preprocessing.image_size, 3)
    if len(takes) != 3 or any(t not in (None, g) for t, g in zip(takes, gives, strict=True)):
        raise ValueError(
            f"The model takes images of the shape {takes}, and the preprocessing gives {gives}: "
            "give the preprocessing that it was trained with."
        )


def _explainer(model, image_size):
    """The `Explainer` of a model whose attention has a picture, or None."""
    if not any(isinstance(layer, InferenceHead) for layer in model.layers):
        return None
    explainer = Explainer(model)
    return explainer if explainer.has_maps(image_size) else None
