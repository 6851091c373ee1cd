"""The Markdown of a model card."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

METRICS = {"top1": "Top-1 accuracy", "top5": "Top-5 accuracy", "mAP": "Mean average precision"}
_MAX_LISTED_CLASSES = 10
_PYTHON_EXAMPLE = """\
```python
import tensorflow as tf

model = tf.saved_model.load("THIS_FOLDER")
photos = tf.constant([open("photo.jpg", "rb").read()])
answer = model.signatures["serving_default"](image_bytes=photos)
print(answer["labels"][0], answer["probabilities"][0])
```"""


def body(card: Mapping[str, Any]) -> str:
    """Returns the Markdown of a model card.

    Args:
        card: the front matter, see `model_card`. The Markdown does not mention missing keys.
    """
    sections = (
        ("", _model(card)),
        ("How to use it", _usage(card)),
        ("Training data", _training_data(card)),
        ("Evaluation", _evaluation(card)),
        ("Limitations", _limitations(card)),
        ("Source", _source(card)),
    )
    blocks = [f"# {_inline(card['name'])}"]
    for title, paragraphs in sections:
        if paragraphs:
            blocks += [f"## {title}"] if title else []
            blocks += paragraphs
    return "\n\n".join(blocks) + "\n"


def _model(card: Mapping[str, Any]) -> list[str]:
    head, parameters = card.get("head", {}), card.get("parameters", {})
    text = "This model is an image classifier"
    if "architecture" in card:
        text += f" ({_inline(card['architecture'])})"
    if head.get("kind") == "noah":
        text += (
            f" with a NOAH head ({head['num_groups']} groups, key ratio {head['key_ratio']:g}). "
            "For every class, the head learns an attention map over the image, and the class's "
            "score is the evidence at each position, weighted by that map and summed"
        )
    elif head.get("kind") == "gap":
        text += " with a head of global average pooling and a linear layer"
    sentences = [f"{text}."]
    if "total" in parameters:
        in_head = f", {parameters['head']:,} in the head" if "head" in parameters else ""
        sentences.append(
            f"It has {parameters['total']:,} parameters "
            f"({parameters['trainable']:,} trainable{in_head})."
        )
    if card.get("precision", "float32") != "float32":
        sentences.append(f"It computes in {_inline(card['precision'])}.")
    if "weights" in card:
        sentences.append(f"Its weights come from {_inline(card['weights'])}.")
    return [" ".join(sentences)]


def _usage(card: Mapping[str, Any]) -> list[str]:
    signatures = card.get("signatures", ())
    paragraphs = []
    if signatures:
        names = ", ".join(f"`{_code(name)}`" for name in signatures)
        paragraphs.append(f"The SavedModel has the signatures {names}.")
    if "serving_default" in signatures:
        paragraphs += [
            "`serving_default` takes the bytes of image files (JPEG, PNG, BMP, GIF and, if this "
            "TensorFlow decodes it, still WebP). It returns `classes`, `labels`, `probabilities` "
            "and `logits`:",
            _PYTHON_EXAMPLE,
            "With TensorFlow Serving on port 8501:",
            "```sh\n"
            "echo '{\"instances\": [{\"b64\": \"'$(base64 < photo.jpg | tr -d '\\n')'\"}]}' \\\n"
            f"  | curl -d @- http://localhost:8501/v1/models/{_code(card['name'])}:predict\n"
            "```",
        ]
    if "answers" in card:
        paragraphs.append(_returned_classes(card["answers"]))
    if "serve_tensor" in signatures:
        paragraphs.append(
            "`serve_tensor` takes decoded images instead: `images`, uint8 (B, H, W, 3), or "
            "(B, H, W, 4) if the model has four channels."
        )
    if "embed" in signatures:
        paragraphs.append(
            "`embed` takes the same input as `serving_default`. It also returns the features "
            "under the head, one vector per photo: `pooled` is their average over the positions, "
            "and `attended`, which models with a NOAH head have, is their average weighted by the "
            "attention for the best class."
        )
    if "explain" in signatures:
        paragraphs.append(
            "`explain` takes the same input as `serving_default`. It also returns an `attention` "
            "map for each returned class, which shows where the model looked for that class, and "
            "the `region` of the photo that the map covers."
        )
    if "preprocessing" in card:
        paragraphs.append(_preprocessing(card["preprocessing"]))
    return paragraphs


def _returned_classes(answers: Mapping[str, Any]) -> str:
    if answers["kind"] == "single_label":
        return (
            f"Each photo has one class. The signatures return the {answers['top_k']} most probable "
            "classes; the probabilities are a softmax of the logits."
        )
    return (
        "A photo can have several classes. The signatures return every class with a probability "
        f"of at least {answers['threshold']:g}; the probabilities are a sigmoid of the logits. All "
        "rows of a batch have the same length: a row with fewer classes is padded with class -1, "
        'label "" and probability 0.'
    )


def _preprocessing(values: Mapping[str, Any]) -> str:
    height, width = values["image_size"]
    steps = []
    if values.get("exif_rotation"):
        steps.append("rotates the photo upright according to its EXIF data")
    if values.get("stretch"):
        steps.append(f"stretches the photo to the aspect ratio of {height} x {width} pixels")
    steps += [
        f"resizes the photo ({values['interpolation']}) so that its shorter side has "
        f"{values['resize_size']} pixels",
        f"crops the central {height} x {width} pixels",
        "scales the pixel values to 0..1",
        *(["takes the luminance"] if len(values["mean"]) == 1 else []),
        f"subtracts {values['mean']}",
    ]
    return (
        f"The SavedModel preprocesses photos itself: it {', '.join(steps)}, and divides by "
        f"{values['std']}."
    )


def _training_data(card: Mapping[str, Any]) -> list[str]:
    data, recipe = card.get("data", {}), card.get("recipe", {})
    paragraphs, facts = [], []
    if "name" in data:
        facts.append(f"Data set: {_inline(data['name'])}.")
    for kind, label in (("train", "Trained on"), ("eval", "Evaluated on")):
        split = data.get(f"{kind}_split")
        if split is not None:
            num_examples = data.get(f"{kind}_examples")
            count = f" ({num_examples:,} examples)" if isinstance(num_examples, int) else ""
            facts.append(f"{label} the split {_inline(split)}{count}.")
    if facts:
        paragraphs.append(" ".join(facts))
    if data.get("classes"):
        listed = ", ".join(_inline(name) for name in data["classes"][:_MAX_LISTED_CLASSES])
        num_more = len(data["classes"]) - _MAX_LISTED_CLASSES
        more = f" and {num_more:,} more, which the front matter lists" if num_more > 0 else ""
        paragraphs.append(f"Classes ({len(data['classes']):,}): {listed}{more}.")
    if "seed" in recipe:
        paragraphs.append(f"Random seed: {recipe['seed']}.")
    if "config" in recipe:
        paragraphs.append("The front matter contains the whole recipe, under `recipe.config`.")
    return paragraphs


def _evaluation(card: Mapping[str, Any]) -> list[str]:
    data, metrics, variants = (card.get(key, {}) for key in ("data", "metrics", "variants"))
    paragraphs = []
    rows = []
    for key, value in metrics.items():
        if not isinstance(value, (int, float)):
            continue
        if key in METRICS:
            rows.append((METRICS[key], _percent(value, 2)))
        elif key == "loss":
            rows.append(("Loss", f"{value:.4g}"))
        elif key == "examples":
            rows.append(("Examples", f"{int(value):,}"))
    if rows:
        names = [_inline(data[key]) for key in ("name", "eval_split") if data.get(key)]
        paragraphs.append(_table(("Metric", f"On {', '.join(names)}" if names else "Value"), rows))
    agreement_rows = [
        (
            f"`{_code(file)}`",
            _percent(agreement["top1"], 1),
            f"{agreement['largest_difference']:.2g}",
            f"{agreement['images']:,}",
        )
        for file, agreement in variants.items()
    ]
    if agreement_rows:
        paragraphs += [
            "How well the files in this folder agree with the float32 model, on the same photos:",
            _table(
                ("File", "Same top-1 class", "Largest logit difference", "Photos"), agreement_rows
            ),
        ]
    return paragraphs


def _limitations(card: Mapping[str, Any]) -> list[str]:
    limits = card.get("limits", {})
    items = []
    if card.get("data", {}).get("classes"):
        items.append(
            "The model assigns every photo to its own classes, even if the photo shows none of "
            "them."
        )
    if "max_pixels" in limits:
        items.append(
            f"A photo with more than {limits['max_pixels']:,} pixels is rejected before it is "
            "decoded."
        )
    if limits.get("tolerant"):
        cost = limits.get("tolerant_cost")
        items.append(
            "If a photo cannot be read, `status` says why, and the request's other photos are "
            "still classified."
        )
        if cost:
            items.append(
                "Because of this, a request of 16 photos takes "
                f"{cost:.3g} times the CPU time of an export that rejects the whole request."
            )
    elif "tolerant" in limits:
        items.append("If one photo cannot be read, its whole request fails.")
    return ["\n".join(f"- {item}" for item in items)] if items else []


def _source(card: Mapping[str, Any]) -> list[str]:
    paragraphs = []
    if card.get("head", {}).get("kind") == "noah":
        paragraphs.append(
            "The head is described in the paper *NOAH: Learning Pairwise Object Category "
            "Attentions for Image Classification* by Chao Li, Aojun Zhou and Anbang Yao, "
            "[arXiv 2402.02377](https://arxiv.org/abs/2402.02377)."
        )
    packages = [f"{name} {version}" for name, version in card.get("versions", {}).items()]
    text = "noah_tf wrote this model"
    if "created" in card:
        text += f" on {card['created']}"
    if packages:
        text += f", with {_inline(', '.join(packages))}"
    return [*paragraphs, f"{text}."]


def _percent(fraction: float, digits: int) -> str:
    return f"{100 * fraction:.{digits}f} %"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _inline(text: Any) -> str:
    """Returns text on one line, with the characters escaped that Markdown or HTML interpret."""
    return re.sub(r"([\\`*\[\]<>|#&~])", r"\\\1", " ".join(str(text).split()))


def _code(text: Any) -> str:
    """Returns text on one line for a code span, without backticks."""
    return " ".join(str(text).split()).replace("`", "'")
