"""A SavedModel with the signatures of noah_tf's exports, whose logits are the mean color."""

import numpy as np
import tensorflow as tf

NAMES = ("red", "green", "blue")
MAGIC = (b"\x89PNG", b"\xff\xd8\xff")


def expected_logits(image):
    """Returns the model's logits for an image (H, W, 3) of uint8."""
    return np.asarray(image, np.float64).mean((0, 1)) / 255


def write_tiny_model(path, tolerant=False, top_k=2):
    """Writes the SavedModel to a folder. `tolerant` adds the output `status`."""

    def mean_color(image):
        logits = tf.reduce_mean(tf.cast(image, tf.float32), [0, 1]) / 255
        return tf.ensure_shape(logits, [3])

    def predictions(logits):
        probabilities, classes = tf.math.top_k(tf.nn.softmax(logits), k=top_k)
        return {
            "classes": classes,
            "labels": tf.gather(tf.constant(NAMES), classes),
            "probabilities": probabilities,
            "logits": logits,
        }

    def decode(row_and_bytes):
        row, data = row_and_bytes
        is_image = tf.reduce_any([tf.strings.substr(data, 0, len(m)) == m for m in MAGIC])
        if tolerant:
            logits = tf.cond(
                is_image,
                lambda: mean_color(tf.io.decode_image(data, 3, expand_animations=False)),
                lambda: tf.zeros([3]),
            )
            return logits, tf.where(is_image, "OK", "neither PNG nor JPEG")
        message = tf.strings.format("row {} is neither PNG nor JPEG", row)
        with tf.control_dependencies([tf.debugging.Assert(is_image, [message])]):
            data = tf.identity(data)
        return mean_color(tf.io.decode_image(data, 3, expand_animations=False)), "OK"

    def from_bytes(image_bytes):
        rows = tf.range(tf.shape(image_bytes)[0])
        signature = (tf.TensorSpec([3]), tf.TensorSpec([], tf.string))
        logits, status = tf.map_fn(decode, (rows, image_bytes), fn_output_signature=signature)
        outputs = predictions(logits)
        if tolerant:
            failed = status != "OK"
            outputs["status"] = status
            for name, value in (("classes", -1), ("labels", ""), ("probabilities", 0.0)):
                outputs[name] = tf.where(failed[:, None], value, outputs[name])
        return outputs

    def explain(image_bytes):
        outputs = from_bytes(image_bytes)
        count = tf.shape(image_bytes)[0]
        # The attention is at the right of the second row, the region is the left half.
        attention = tf.reshape(tf.one_hot(5, 6), [1, 2, 3, 1])
        outputs["attention"] = tf.tile(attention, [count, 1, 1, top_k])
        outputs["region"] = tf.tile([[0.0, 0.0, 1.0, 0.5]], [count, 1])
        return outputs

    def embed(image_bytes):
        outputs = from_bytes(image_bytes)
        # The features are the mean color too.
        return {**outputs, "pooled": outputs["logits"], "attended": outputs["logits"] + 1.0}

    def from_pixels(images):
        return predictions(tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]) / 255)

    def signature(function, **specs):
        return tf.function(function).get_concrete_function(**specs)

    image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
    images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    signatures = {
        "serving_default": signature(from_bytes, image_bytes=image_bytes),
        "embed": signature(embed, image_bytes=image_bytes),
        "explain": signature(explain, image_bytes=image_bytes),
        "serve_tensor": signature(from_pixels, images=images),
    }
    tf.saved_model.save(tf.Module(), str(path), signatures)
