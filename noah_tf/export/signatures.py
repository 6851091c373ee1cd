"""The signatures of an exported model."""

import pathlib
import tempfile
from collections.abc import Callable, Sequence

import tensorflow as tf

from noah_tf.explain import Explainer
from noah_tf.export.options import ServingOptions
from noah_tf.export.tracing import inlined_grouped_convolutions
from noah_tf.images import headers
from noah_tf.utils.keras_compat import raw_variable, weight_path

LABELS_FILE = "labels.txt"  # The file of the class names, in the export's assets.
OK = "OK"  # The status of a photo that was classified.
_MAX_PIXELS_IN_PARALLEL = 2**27  # The sum over the photos that are decoded at the same time.


class ServedModel(tf.Module):
    """A model with its preprocessing and class names, built from TensorFlow's own ops only.

    Args:
        model: a functional Keras model, images to logits, as `for_inference` returns it.
        options: the `ServingOptions`.
        explainer: the model's `Explainer`, for the signatures `embed` and `explain`. None leaves
            them out, and `explain` is also left out if the explainer has no attention maps.

    Attributes:
        functions: dict of a signature's name to its `tf.function`, for `tf.saved_model.save`.
    """

    def __init__(
        self, model: tf.keras.Model, options: ServingOptions, explainer: Explainer | None = None
    ) -> None:
        super().__init__()
        self._options = options
        # Without this limit, a small request of hostile files could make a server with many cores
        # allocate gigabytes.
        self._parallel_photos = min(10, max(1, _MAX_PIXELS_IN_PARALLEL // options.max_pixels))
        self._labels = self._label_table(options.class_names)
        # TensorFlow saves these variables. The module cannot track the model itself, because Keras
        # 3 fails to load a model that is part of a module ("Could not find variable").
        self._weights = [
            {weight_path(weight).rpartition("/")[2]: raw_variable(weight)}
            for weight in model.weights
        ]
        self.functions = self._signatures(model, explainer)

    def _label_table(self, class_names: Sequence[str]) -> tf.lookup.StaticHashTable:
        # tf.saved_model.save copies the file, so that the folder has to exist until then.
        self._labels_folder = tempfile.TemporaryDirectory()
        path = pathlib.Path(self._labels_folder.name) / LABELS_FILE
        path.write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
        index = tf.lookup.TextFileIndex
        return tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                str(path), tf.int64, index.LINE_NUMBER, tf.string, index.WHOLE_LINE
            ),
            default_value="",
        )

    def _signatures(
        self, model: tf.keras.Model, explainer: Explainer | None
    ) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
        # Closures over the model, because the module must not have it as an attribute.
        image_size = self._options.preprocessing.image_size

        def logits_of(images: tf.Tensor) -> tf.Tensor:
            with inlined_grouped_convolutions(model):
                return tf.cast(model(images, training=False), tf.float32)

        def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            images, _, status = self._read_photos(image_bytes)
            return self._outputs(logits_of(images), status)

        def serve_tensor(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._outputs(logits_of(self._preprocess_pixels(images)))

        def explain(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            assert explainer is not None
            images, regions, status = self._read_photos(image_bytes)
            with inlined_grouped_convolutions(model):
                features, logits = explainer.forward(images)
                outputs = self._outputs(tf.cast(logits, tf.float32), status)
                classes = outputs["classes"]
                maps = explainer.maps(features, tf.maximum(classes, 0), image_size)
            is_returned = tf.cast(classes >= 0, tf.float32)[:, None, None, :]
            return {**outputs, "attention": maps * is_returned, "region": regions}

        def embed(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            assert explainer is not None
            images, _, status = self._read_photos(image_bytes)
            with inlined_grouped_convolutions(model):
                features, logits = explainer.forward(images)
                outputs = self._outputs(tf.cast(logits, tf.float32), status)
                embeddings = explainer.embeddings(features, logits)
            if status is not None:
                is_readable = (status == OK)[:, None]
                embeddings = {
                    name: tf.where(is_readable, values, 0.0) for name, values in embeddings.items()
                }
            return {**outputs, **embeddings}

        photos_spec = tf.TensorSpec((None,), tf.string, name="image_bytes")
        channels = self._options.preprocessing.crop_shape[-1]
        pixels_spec = tf.TensorSpec((None, None, None, channels), tf.uint8, name="images")
        specs = {serving_default: photos_spec, serve_tensor: pixels_spec}
        if explainer is not None:
            specs[embed] = photos_spec
            if "attention" in explainer.methods and explainer.has_maps(image_size):
                specs[explain] = photos_spec
        return {
            function.__name__: tf.function(function, input_signature=[spec], autograph=False)
            for function, spec in specs.items()
        }

    def _outputs(self, logits: tf.Tensor, status: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns the outputs of a signature; rows of unreadable photos are zeroed."""
        threshold = self._options.threshold
        is_returned = tf.constant(True)
        if self._options.multi_label:
            scores = tf.sigmoid(logits)
            # All rows have the length of the longest one.
            counts = tf.reduce_sum(tf.cast(scores >= threshold, tf.int32), axis=1)
            num_returned = tf.maximum(tf.reduce_max(counts), 1)
        else:
            scores = tf.nn.softmax(logits)
            num_returned = self._options.top_k
        probabilities, classes = tf.math.top_k(scores, k=num_returned)
        if self._options.multi_label:
            is_returned &= probabilities >= threshold
        if status is not None:
            is_readable = (status == OK)[:, None]
            is_returned &= is_readable
            logits = tf.where(is_readable, logits, 0.0)
        classes = tf.where(is_returned, classes, -1)
        outputs = {
            "classes": classes,
            "labels": self._labels.lookup(tf.cast(classes, tf.int64)),
            "probabilities": tf.where(is_returned, probabilities, 0.0),
            "logits": logits,
        }
        return outputs if status is None else {**outputs, "status": status}

    def _preprocess_pixels(self, images: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(images)
        images = _assert(images, tf.reduce_all(shape > 0), ["images is empty, its shape is", shape])
        return tf.map_fn(
            self._options.preprocessing.evaluation, images, fn_output_signature=self._image_spec()
        )

    def _image_spec(self) -> tf.TensorSpec:
        return tf.TensorSpec(self._options.preprocessing.input_shape, tf.float32)

    def _read_photos(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """Returns images (B, height, width, C), regions (B, 4), and statuses (B,) or None."""
        image_bytes = _assert(image_bytes, tf.size(image_bytes) > 0, ["image_bytes is empty"])
        if self._options.tolerant:
            return self._read_tolerantly(image_bytes)
        return (*self._read_strictly(image_bytes), None)

    def _read_photo(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the model's input, and the part of the photo that it shows."""
        preprocessing = self._options.preprocessing
        photo = preprocessing.decode(image_bytes)
        return preprocessing.evaluation(photo), preprocessing.region(tf.shape(photo)[:2])

    def _read_strictly(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns images and regions. An unreadable photo raises an error."""

        def read_row(row_and_photo: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            row, photo = row_and_photo
            problem = self._options.preprocessing.problem(photo, self._options.max_pixels)
            message = tf.strings.join(
                ["image ", tf.strings.as_string(row), " of the request: ", problem]
            )
            # The assertion runs before the decoder, which would allocate the memory.
            return self._read_photo(_assert(photo, problem == "", [message]))

        rows = tf.range(tf.shape(image_bytes)[0])
        return tf.map_fn(
            read_row,
            (rows, image_bytes),
            fn_output_signature=(self._image_spec(), tf.TensorSpec((4,), tf.float32)),
            parallel_iterations=self._parallel_photos,
        )

    def _read_tolerantly(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns images and regions, with zeros for unreadable photos, and statuses."""
        batch_size = tf.shape(image_bytes, out_type=tf.int64)[0]
        zeros = (tf.zeros(self._image_spec().shape), tf.zeros(4))

        def read_row(row: tf.Tensor, photo: tf.Tensor) -> tuple[tf.Tensor, ...]:
            problem = self._options.preprocessing.problem(photo, self._options.max_pixels)
            outputs = tf.cond(problem == "", lambda: self._read_photo(photo), lambda: zeros)
            status = tf.where(problem == "", OK, problem)
            return row, status, *outputs

        # ignore_errors() is the only op that catches errors. It drops the photos that the decoder
        # fails on. One data set serves the whole batch, because creating one is expensive.
        dataset = tf.data.Dataset.from_tensor_slices(image_bytes).enumerate()
        dataset = dataset.map(read_row, num_parallel_calls=self._parallel_photos).ignore_errors()
        # One extra row at the end guarantees that the data set is not empty.
        extra_row = tf.data.Dataset.from_tensors((batch_size, "", *zeros))
        dataset = dataset.concatenate(extra_row).batch(batch_size + 1)
        rows, statuses, images, regions = dataset.get_single_element()
        rows = rows[:, None]
        status = tf.fill([batch_size + 1], headers.UNDECODABLE)
        status = tf.tensor_scatter_nd_update(status, rows, statuses)

        def at_its_row(values: tf.Tensor) -> tf.Tensor:
            shape = tf.concat([[batch_size + 1], tf.shape(values, out_type=tf.int64)[1:]], 0)
            return tf.scatter_nd(rows, values, shape)[:batch_size]

        images = tf.ensure_shape(at_its_row(images), (None, *self._image_spec().shape))
        return images, tf.ensure_shape(at_its_row(regions), (None, 4)), status[:batch_size]


def _assert(tensor: tf.Tensor, condition: tf.Tensor, message: list) -> tf.Tensor:
    """Returns the tensor, which no op can use until the condition has been checked."""
    with tf.control_dependencies([tf.debugging.Assert(condition, message, summarize=4)]):
        return tf.identity(tensor)
