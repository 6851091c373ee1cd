"""What an exported model answers: the functions behind its signatures."""

import pathlib
import tempfile

import tensorflow as tf

from noah_tf.export.tracing import inlined_grouped_convolutions
from noah_tf.images import headers
from noah_tf.utils.keras_compat import raw_variable, weight_path

LABELS_FILE = "labels.txt"  # in the export's assets
OK = "OK"
# Decoding takes 3 to 11 bytes a pixel, see `headers.problem`.
MAX_PIXELS = 2**25
_PIXELS_AT_A_TIME = 2**27  # of the photos of a request


class ServedModel(tf.Module):
    """A model with its preprocessing and the names of its classes, all in TensorFlow's own ops.

    Args:
        model: functional Keras model, images to logits, see `for_inference`.
        preprocessing: its `preprocess.Preprocessing`.
        class_names: M strings.
        top_k: how many classes to return, at most M.
        threshold: None where one class is true; where several can be, the probability from which
            on a class is returned.
        tolerant: whether a bad photo gets a status; else it fails the request.
        max_pixels: a photo with more is a bad one.
        explainer: the model's `explainer.Explainer`, for the signature `explain`, or None.

    Attributes:
        functions: dict of signature to function, for `tf.saved_model.save`.
    """

    def __init__(
        self,
        model,
        preprocessing,
        class_names,
        top_k=5,
        threshold=None,
        tolerant=False,
        max_pixels=MAX_PIXELS,
        explainer=None,
    ):
        super().__init__()
        self._preprocessing, self._top_k, self._threshold = preprocessing, top_k, threshold
        self._tolerant, self._max_pixels = tolerant, max_pixels
        # Else a request of small hostile files could take gigabytes, on a server of many cores.
        self._photos_at_a_time = min(10, max(1, _PIXELS_AT_A_TIME // max_pixels))
        # tf.saved_model.save copies it.
        self._folder = tempfile.TemporaryDirectory()
        labels = pathlib.Path(self._folder.name) / LABELS_FILE
        labels.write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
        index = tf.lookup.TextFileIndex
        self._labels = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                str(labels), tf.int64, index.LINE_NUMBER, tf.string, index.WHOLE_LINE
            ),
            default_value="",
        )
        # Not the model, which Keras 3 cannot load from within a module ("Could not find variable").
        self._weights = [
            {weight_path(weight).rpartition("/")[2]: raw_variable(weight)}
            for weight in model.weights
        ]

        def logits_of(images):
            with inlined_grouped_convolutions(model):
                return tf.cast(model(images, training=False), tf.float32)

        def serving_default(image_bytes):
            images, _, status = self._photos(image_bytes)
            return self._answer(logits_of(images), status)

        def serve_tensor(images):
            return self._answer(logits_of(self._pixels(images)))

        def explain(image_bytes):
            images, regions, status = self._photos(image_bytes)
            with inlined_grouped_convolutions(model):
                features, logits = explainer.forward(images)
                answer = self._answer(tf.cast(logits, tf.float32), status)
                classes = answer["classes"]
                maps = explainer.maps(features, tf.maximum(classes, 0), preprocessing.image_size)
            seen = tf.cast(classes >= 0, tf.float32)[:, None, None, :]
            return {**answer, "attention": maps * seen, "region": regions}

        files = tf.TensorSpec((None,), tf.string, name="image_bytes")
        pixels = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")
        inputs = {serving_default: files, serve_tensor: pixels}
        if explainer is not None:
            inputs[explain] = files
        self.functions = {
            function.__name__: tf.function(function, input_signature=[spec], autograph=False)
            for function, spec in inputs.items()
        }

    def _answer(self, logits, status=None):
        several = self._threshold is not None
        scores = tf.sigmoid(logits) if several else tf.nn.softmax(logits)
        count = self._top_k
        kept = tf.constant(True)
        if several:
            # As many as the richest image of the batch has; the others are filled up.
            counts = tf.reduce_sum(tf.cast(scores >= self._threshold, tf.int32), axis=1)
            count = tf.maximum(tf.reduce_max(counts), 1)
        probabilities, classes = tf.math.top_k(scores, k=count)
        if several:
            kept &= probabilities >= self._threshold
        if status is not None:
            fine = (status == OK)[:, None]
            kept &= fine
            logits = tf.where(fine, logits, 0.0)
        classes = tf.where(kept, classes, -1)
        answer = {
            "classes": classes,
            "labels": self._labels.lookup(tf.cast(classes, tf.int64)),
            "probabilities": tf.where(kept, probabilities, 0.0),
            "logits": logits,
        }
        return answer if status is None else {**answer, "status": status}

    def _pixels(self, images):
        shape = tf.shape(images)
        images = _checked(
            images, tf.reduce_all(shape > 0), ["images has nothing in it, its shape is", shape]
        )
        return tf.map_fn(
            self._preprocessing.evaluation, images, fn_output_signature=self._image_spec()
        )

    def _image_spec(self):
        return tf.TensorSpec((*self._preprocessing.image_size, 3), tf.float32)

    def _photo(self, image_bytes):
        """What the model takes of a photo, and which part of the photo that is."""
        photo = self._preprocessing.decode(image_bytes)
        region = self._preprocessing.region(tf.shape(photo)[:2])
        return self._preprocessing.evaluation(photo), region

    def _photos(self, image_bytes):
        """(B, height, width, 3), (B, 4), and the statuses (B,) or None."""
        image_bytes = _checked(
            image_bytes, tf.size(image_bytes) > 0, ["image_bytes has nothing in it"]
        )
        return self._tolerated(image_bytes) if self._tolerant else (*self._all(image_bytes), None)

    def _all(self, image_bytes):
        def one(row_and_bytes):
            row, data = row_and_bytes
            problem = headers.problem(data, self._max_pixels)
            message = tf.strings.join(
                ["image ", tf.strings.as_string(row), " of the request: ", problem]
            )
            # Before it is decoded, which would take the memory.
            return self._photo(_checked(data, problem == "", [message]))

        rows = tf.range(tf.shape(image_bytes)[0])
        spec = (self._image_spec(), tf.TensorSpec((4,), tf.float32))
        return tf.map_fn(
            one,
            (rows, image_bytes),
            fn_output_signature=spec,
            parallel_iterations=self._photos_at_a_time,
        )

    def _tolerated(self, image_bytes):
        """As `_all`, with zeros for bad photos, and a status for each."""
        count = tf.shape(image_bytes, out_type=tf.int64)[0]
        nothing = (tf.zeros(self._image_spec().shape), tf.zeros(4))

        def one(row, data):
            problem = headers.problem(data, self._max_pixels)
            photo = tf.cond(problem == "", lambda: self._photo(data), lambda: nothing)
            status = tf.where(problem == "", OK, problem)
            return row, status, *photo

        # No op catches an error but this one of tf.data: it drops a photo that the decoder gives
        # up. One data set for the whole batch, for making one is what costs.
        found = tf.data.Dataset.from_tensor_slices(image_bytes).enumerate()
        found = found.map(one, num_parallel_calls=self._photos_at_a_time).ignore_errors()
        # A row behind the last, so that there is one.
        found = found.concatenate(tf.data.Dataset.from_tensors((count, "", *nothing)))
        rows, statuses, images, regions = found.batch(count + 1).get_single_element()
        rows = rows[:, None]
        status = tf.fill([count + 1], headers.UNDECODABLE)
        status = tf.tensor_scatter_nd_update(status, rows, statuses)

        def in_place(values):
            shape = tf.concat([[count + 1], tf.shape(values, out_type=tf.int64)[1:]], 0)
            return tf.scatter_nd(rows, values, shape)[:count]

        images = tf.ensure_shape(in_place(images), (None, *self._image_spec().shape))
        return images, tf.ensure_shape(in_place(regions), (None, 4)), status[:count]


def _checked(tensor, condition, message):
    """The tensor, which nothing can use before the condition is found to be true."""
    with tf.control_dependencies([tf.debugging.Assert(condition, message, summarize=4)]):
        return tf.identity(tensor)
