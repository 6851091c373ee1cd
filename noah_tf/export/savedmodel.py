"""SavedModels that take image files or pixels and return classes, with the preprocessing inside."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.explain import Explainer
from noah_tf.export import warmup
from noah_tf.export.agreement import relative_cpu_time, write_variants
from noah_tf.export.model_card import (
    CARD_FILE,
    CardFacts,
    model_card,
    read_card,
    running_versions,
)
from noah_tf.export.options import MAX_PIXELS, ExportOptions, logits_model, serving_options
from noah_tf.export.photos import Photo
from noah_tf.export.signatures import ServedModel
from noah_tf.export.variants import Agreement
from noah_tf.export.versions import new_version
from noah_tf.head import InferenceHead
from noah_tf.images import Preprocessing
from noah_tf.models import for_inference, in_precision
from noah_tf.utils.paths import Path, PathLike, as_path


def export_savedmodel(
    model: tf.keras.Model,
    model_dir: PathLike,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    version: int | None = None,
    top_k: int | None = None,
    multi_label: bool = False,
    threshold: float | None = None,
    tolerant: bool = False,
    max_pixels: int = MAX_PIXELS,
    warmup_batch_sizes: Sequence[int] = (1, 8, 32),
    precision: str = "float32",
    variants: Sequence[str] = (),
    photos: Sequence[Photo] | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model as the next version in a folder that TF Serving watches.

    One rename makes the version visible: a server that polls the folder never sees an incomplete
    version, and existing versions are never changed.

    Signatures:
        `serving_default` takes `image_bytes`, string (B,): image files of any size. The formats are
        JPEG (also grayscale and CMYK), PNG, BMP, GIF (the first frame) and, if TensorFlow decodes
        it, still WebP. `serve_tensor` takes `images`, uint8 (B, H, W, 3), or
        (B, H, W, 4) if the preprocessing has four channels, which need PNG files.

        Both return `classes` int32 (B, k), the indices of the best classes, their `labels` (B, k)
        and `probabilities` (B, k), and the `logits` (B, M) of all classes. A multi-label model
        returns the classes with a probability of at least `threshold`, and k is the largest number
        of them in the batch: shorter rows are padded with class -1, label "" and probability 0.

        `explain` takes `image_bytes`. It also returns `attention` (B, h, w, k), which sums to 1
        over the positions, and `region` (B, 4): top, left, bottom and right of the part of the
        photo that the map covers, as fractions of the photo's height and width. Only models with a
        NOAH head over a feature map, or over a grid of square patches, have this signature.

        `embed` takes `image_bytes`. It also returns `pooled` (B, C), the features under the head,
        averaged over the positions, and `attended` (B, C), the features weighted by the attention
        for the best class. Models with a NOAH head have it, and models with a pooled head have it
        without `attended`.

    Args:
        model: a functional Keras model, images to logits. If it ends in a softmax, or a multi-label
            model in a sigmoid, the export takes the logits before it.
        model_dir: the folder of all versions, such as "saved_models/NAME".
        preprocessing: the `Preprocessing` that the model was trained with. None is ImageNet's mean
            and standard deviation at the model's input size.
        class_names: M names. None names the classes by their index.
        version: a positive integer. None is one more than the highest existing version.
        top_k: single-label models: the number of classes to return, at most M. None is 5.
        multi_label: whether a photo can have several classes, each with a probability of its own
            (sigmoid instead of softmax).
        threshold: multi-label models: the lowest probability of a returned class. None is 0.5.
        tolerant: what happens if a photo cannot be read. With False, the request fails, and the
            error message gives the reason. With True, the other photos are classified, and one more
            output, `status` (B,), is "OK" or the reason. An unreadable photo's row has class -1,
            label "" and probabilities and logits of 0.
        max_pixels: a photo with more pixels counts as unreadable and is not decoded. Decoding takes
            3 to 11 bytes per pixel, and up to 2^27 / `max_pixels` photos of a request (at most 10)
            are decoded at the same time.
        warmup_batch_sizes: for each signature, the batch sizes of the requests that TF Serving
            replays when it loads the version. Use those of its batching configuration.
        precision: "float32" or "mixed_bfloat16", the policy that the served model computes in. The
            softmax, and all weights except the NOAH head's kernels, stay in float32.
        variants: other files to write: "tflite_dynamic" (model_dynamic.tflite), "tflite_int8"
            (model_int8.tflite) and "onnx" (model.onnx). They take the pixels of the center crop and
            return logits.
        photos: encoded photos, or their paths. The SavedModel and its variants are compared with
            the float32 model on them, and the int8 variant is calibrated on them (preferably on a
            hundred or more). Required if there are variants or `precision` is not "float32".
        card: facts for the version's MODEL_CARD.md, with the keys "architecture", "weights",
            "data", "recipe", "seed", "metrics" and "license" (see `model_card.CardFacts`).

    Returns:
        The path of the version's folder.

    Raises:
        ValueError: an option is out of its range or does not fit the model, the version exists, the
            model takes other inputs than images, or does not end in one tensor of logits or their
            softmax or sigmoid, it has no input size and no preprocessing is given, a photo cannot
            be read, or a variant's format lacks an op of the model.
        ImportError: `variants` contains ONNX, and the extra `onnx` is not installed.
        FloatingPointError: logits of the model or of a variant are not finite.

    Example:

    >>> path = noah_tf.export_savedmodel(model, "saved_models/flowers")
    >>> serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    >>> serve(image_bytes=tf.constant([tf.io.read_file("rose.jpg").numpy()]))["labels"]
    """
    model = logits_model(model, multi_label)
    serving = serving_options(
        model,
        preprocessing,
        class_names,
        multi_label=multi_label,
        top_k=top_k,
        threshold=threshold,
        tolerant=tolerant,
        max_pixels=max_pixels,
    )
    options = ExportOptions(
        model=model,
        model_dir=as_path(model_dir),
        serving=serving,
        version=version,
        warmup_batch_sizes=warmup_batch_sizes,
        precision=precision,
        variants=variants,
        photos=photos or (),
        card=card or {},
    )
    return _write_version(options)


def describe_version(path: PathLike) -> str:
    """Returns what a command line prints about a version that `export_savedmodel` has written.

    Args:
        path: the version's folder.
    """
    card = read_card(path)
    lines = [f"Wrote {path}: signatures {', '.join(card['signatures'])}."]
    for file, values in card.get("variants", {}).items():
        lines.append(f"{file}: {Agreement(**values)}.")
    if "tolerant_cost" in card["limits"]:
        lines.append(
            "CPU time relative to the strict export, for a request of 16 photos: "
            f"{card['limits']['tolerant_cost']:.2f}."
        )
    return "\n".join(lines)


def _write_version(options: ExportOptions) -> Path:
    serving = options.serving
    model = for_inference(in_precision(options.model, options.precision))
    explainer = _explainer(model)
    served = ServedModel(model, serving, explainer)
    _check_finite(served, serving.preprocessing)
    name = options.model_dir.resolve().name
    with new_version(options.model_dir, options.version) as draft:
        tf.saved_model.save(served, str(draft.path), signatures=served.functions)
        if options.warmup_batch_sizes:
            requests = warmup.sample_requests(
                served.functions, options.warmup_batch_sizes, serving.preprocessing
            )
            warmup.write_requests(draft.path, name, requests)
        limits: dict[str, Any] = {"max_pixels": serving.max_pixels, "tolerant": serving.tolerant}
        if serving.tolerant:
            strict = ServedModel(model, dataclasses.replace(serving, tolerant=False), explainer)
            limits["tolerant_cost"] = relative_cpu_time(
                served.functions["serving_default"],
                strict.functions["serving_default"],
                options.encoded_photos or [warmup.sample_photo(serving.preprocessing)],
            )
        agreements = None
        if options.encoded_photos:
            agreements = write_variants(
                draft.path,
                options.model,
                serving.preprocessing,
                options.variants,
                options.encoded_photos,
            )
        facts = CardFacts(
            name,
            model=options.model,
            preprocessing=serving.preprocessing,
            class_names=serving.class_names,
            signatures=list(served.functions),
            answers=serving.answers(),
            precision=options.precision,
            limits=limits,
            variants=agreements,
            versions=running_versions(),
            created=datetime.datetime.now(datetime.timezone.utc),
            **options.card,
        )
        (draft.path / CARD_FILE).write_text(model_card(facts), encoding="utf-8")
    return draft.path


def _check_finite(served: ServedModel, preprocessing: Preprocessing) -> None:
    """Calls each signature once, so that a broken model is not published."""
    for name, inputs in warmup.sample_requests(served.functions, (1,), preprocessing):
        answer = served.functions[name](*map(tf.constant, inputs.values()))
        if not np.isfinite(answer["logits"]).all():
            raise FloatingPointError(
                f"The signature {name} returns logits that are not finite: check the model's "
                "weights and its preprocessing."
            )


def _explainer(model: tf.keras.Model) -> Explainer | None:
    """Returns the model's `Explainer`, or None if it has neither a NOAH head nor a pooled one."""
    has_noah = any(isinstance(layer, InferenceHead) for layer in model.layers)
    try:
        return Explainer(model)
    except ValueError:
        if has_noah:
            raise
        return None
