"""The readable part of a model card."""

import re

METRICS = {"top1": "Top-1 accuracy", "top5": "Top-5 accuracy", "mAP": "Mean average precision"}
_SOME = 10


def body(card):
    """Markdown of a model card.

    Args:
        card: its front matter, see `model_card`.

    Returns:
        The text, which says nothing of what the card does not have.
    """
    sections = (
        ("", _what(card)),
        ("How to call it", _calls(card)),
        ("What it was trained on", _training(card)),
        ("How good it is", _quality(card)),
        ("Limits", _limits(card)),
        ("Source", _source(card)),
    )
    parts = [f"# {_inline(card['name'])}"]
    for title, paragraphs in sections:
        if paragraphs:
            parts += [f"## {title}"] if title else []
            parts += paragraphs
    return "\n\n".join(parts) + "\n"


def _what(card):
    head, parameters = card.get("head", {}), card.get("parameters", {})
    text = "An image classifier"
    if "architecture" in card:
        text += f" ({_inline(card['architecture'])})"
    if head.get("kind") == "noah":
        text += (
            f" with a NOAH head ({head['num_groups']} groups, key ratio {head['key_ratio']:g}), "
            "which learns for every class where to look, and sums what it sees there"
        )
    elif head.get("kind") == "gap":
        text += " with global average pooling and a linear layer"
    facts = []
    if "total" in parameters:
        of_head = f", {parameters['head']:,} in the head" if "head" in parameters else ""
        facts.append(
            f"{parameters['total']:,} parameters ({parameters['trainable']:,} trainable{of_head})"
        )
    if card.get("precision", "float32") != "float32":
        facts.append(f"computes in {_inline(card['precision'])}")
    if "weights" in card:
        facts.append(f"weights from {_inline(card['weights'])}")
    facts = "".join(f"; {fact}" for fact in facts)
    return [f"{text}{facts}."]


def _calls(card):
    signatures = card.get("signatures", ())
    paragraphs = []
    if signatures:
        names = ", ".join(f"`{_code(name)}`" for name in signatures)
        paragraphs.append(f"Signatures of the SavedModel: {names}.")
    if "serving_default" in signatures:
        name = _code(card["name"])
        paragraphs += [
            "`serving_default` takes the bytes of photos (JPEG, PNG, BMP, GIF and, where "
            "TensorFlow decodes it, still WebP) and gives `classes`, `labels`, `probabilities` and "
            "`logits`:",
            "```python\n"
            "import tensorflow as tf\n\n"
            'model = tf.saved_model.load("THIS_FOLDER")\n'
            'photos = tf.constant([open("photo.jpg", "rb").read()])\n'
            'answer = model.signatures["serving_default"](image_bytes=photos)\n'
            'print(answer["labels"][0], answer["probabilities"][0])\n'
            "```",
            "From a TensorFlow Serving on port 8501:",
            "```sh\n"
            "echo '{\"instances\": [{\"b64\": \"'$(base64 < photo.jpg | tr -d '\\n')'\"}]}' \\\n"
            f"  | curl -d @- http://localhost:8501/v1/models/{name}:predict\n"
            "```",
        ]
    if "answers" in card:
        paragraphs.append(_answers(card["answers"]))
    if "serve_tensor" in signatures:
        paragraphs.append(
            "`serve_tensor` takes decoded photos, `images` uint8 (B, H, W, 3), in their place."
        )
    if "explain" in signatures:
        paragraphs.append(
            "`explain` takes the same as `serving_default`, and gives for each class the "
            "`attention`, which says where it was seen, and the `region` of the photo that this "
            "covers."
        )
    if "preprocessing" in card:
        paragraphs.append(_preprocessing(card["preprocessing"]))
    return paragraphs


def _answers(answers):
    if answers["kind"] == "single_label":
        return (
            f"One class is true of a photo: the {answers['top_k']} most probable ones are "
            "returned, by a softmax."
        )
    return (
        "Several classes can be true of a photo: those of a probability of at least "
        f"{answers['threshold']:g}, by a sigmoid, are returned. Rows with fewer than the fullest "
        'of their request end in class -1, label "", probability 0.'
    )


def _preprocessing(values):
    height, width = values["image_size"]
    turned = ", turned upright as its EXIF data say" if values.get("exif_rotation") else ""
    shape = f"stretched to the shape of {height} x {width} and " if values.get("stretch") else ""
    return (
        f"Preprocessing, inside the SavedModel: the photo{turned}, {shape}scaled "
        f"({values['interpolation']}) until its short side is {values['resize_size']} pixels, the "
        f"centre {height} x {width} cut out, scaled to 0..1, minus {values['mean']}, divided by "
        f"{values['std']}."
    )


def _training(card):
    data, recipe = card.get("data", {}), card.get("recipe", {})
    paragraphs, facts = [], []
    if "name" in data:
        facts.append(f"Data: {_inline(data['name'])}")
    for key, label in (("train_split", "trained on"), ("eval_split", "evaluated on")):
        if data.get(key) is not None:
            count = data.get(key.replace("split", "examples"))
            examples = f" ({count:,} examples)" if isinstance(count, int) else ""
            facts.append(f"{label} the split {_inline(data[key])}{examples}")
    if facts:
        paragraphs.append(", ".join(facts) + ".")
    if data.get("classes"):
        names, more = data["classes"][:_SOME], len(data["classes"]) - _SOME
        named = ", ".join(_inline(name) for name in names)
        rest = f" and {more:,} more, in the front matter" if more > 0 else ""
        paragraphs.append(f"Classes ({len(data['classes']):,}): {named}{rest}.")
    if "seed" in recipe:
        paragraphs.append(f"Seed: {recipe['seed']}.")
    if "config" in recipe:
        paragraphs.append("The whole recipe is in the front matter, under `recipe.config`.")
    return paragraphs


def _quality(card):
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
            rows.append(("Photos", f"{int(value):,}"))
    if rows:
        names = [_inline(data[key]) for key in ("name", "eval_split") if data.get(key)]
        paragraphs.append(_table(("Metric", f"On {', '.join(names)}" if names else "Value"), rows))
    rows = [
        (
            f"`{_code(file)}`",
            _percent(found["top1"], 1),
            f"{found['largest_difference']:.2g}",
            f"{found['images']:,}",
        )
        for file, found in variants.items()
    ]
    if rows:
        paragraphs += [
            "Files of this folder beside the model in float32, as it was trained:",
            _table(("File", "Same best class", "Largest difference of a logit", "Photos"), rows),
        ]
    return paragraphs


def _limits(card):
    limits = card.get("limits", {})
    lines = []
    if card.get("data", {}).get("classes"):
        lines.append("It knows its own classes and nothing else.")
    if "max_pixels" in limits:
        lines.append(f"A photo of more than {limits['max_pixels']:,} pixels is refused undecoded.")
    if "tolerant" in limits:
        if limits["tolerant"]:
            cost = limits.get("tolerant_cost")
            price = (
                f" For 16 photos this takes {cost:g} times the processors' time." if cost else ""
            )
            lines.append(
                "A photo that cannot be read has what is wrong in `status`, and the others of its "
                f"request are answered.{price}"
            )
        else:
            lines.append("One photo that cannot be read fails its whole request.")
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def _source(card):
    paragraphs = []
    if card.get("head", {}).get("kind") == "noah":
        paragraphs.append(
            "The head is from the paper *NOAH: Learning Pairwise Object Category Attentions for "
            "Image Classification* by Chao Li, Aojun Zhou and Anbang Yao, "
            "[arXiv 2402.02377](https://arxiv.org/abs/2402.02377)."
        )
    facts = [f"{name} {version}" for name, version in card.get("versions", {}).items()]
    when = f" on {card['created']}" if "created" in card else ""
    made = f"Written by noah_tf{when}"
    paragraphs.append(f"{made}, with {_inline(', '.join(facts))}." if facts else f"{made}.")
    return paragraphs


def _percent(share, digits):
    return f"{100 * share:.{digits}f} %"


def _table(header, rows):
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _inline(text):
    """Text of one line, without what Markdown or HTML would take for more."""
    return re.sub(r"([\\`*\[\]<>|#&~])", r"\\\1", " ".join(str(text).split()))


def _code(text):
    """Text for a code span: one line, without the mark of its end."""
    return " ".join(str(text).split()).replace("`", "'")
