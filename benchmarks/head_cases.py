"""The heads that `head.py` measures, each as a forward pass and a training step.

A training step computes the gradients of the mean cross-entropy with respect to the features and
all weights. The reference is rebuilt from its description: two grouped 1x1 convolutions, a softmax
of the keys over the positions, the sum of the values weighted by it, and a sum over groups.
"""

import collections
import importlib

import numpy as np
import tensorflow as tf

Shape = collections.namedtuple("Shape", ["positions", "channels", "classes", "groups", "ratio"])

SHAPES = {
    "mobilenetv2": Shape(49, 1280, 1000, 8, 1 / 4),
    "resnet18": Shape(49, 512, 1000, 4, 1 / 2),
    "resnet50": Shape(49, 2048, 1000, 4, 1 / 8),
    "deit_tiny": Shape(196, 192, 1000, 4, 1 / 2),
    "imagenet21k": Shape(196, 768, 21843, 4, 1 / 2),
}
BATCH_SIZES = {name: 8 if name == "imagenet21k" else 32 for name in SHAPES}


def problem(shape, batch):
    """Returns features (B, L, C) and labels (B,)."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(batch, shape.positions, shape.channels)).astype(np.float32)
    return features, rng.integers(0, shape.classes, batch)


def products(shape, batch):
    """Returns the floating-point operations of the forward pass's matrix products."""
    return 2 * batch * shape.positions * shape.channels * shape.classes


def noah(shape, batch, export=False, package="noah_tf", **options):
    """Returns the forward pass and the training step of a NOAHHead, functions without arguments.

    With `export`, the forward pass is that of the head's inference form. `package` is the name of
    noah_tf, or of a copy of an older version.
    """
    package = importlib.import_module(f"{package}.head")
    head = package.NOAHHead(shape.classes, shape.groups, shape.ratio, **options)
    head.build((batch, shape.positions, shape.channels))
    return _steps(head, shape, batch, package.precomputed_head(head) if export else head)


def products_alone(shape, batch):
    """Returns the same for the head's matrix products only: two per group, six in training."""
    rows, key_channels = batch * shape.positions, int(shape.channels * shape.ratio)
    parts = []
    for channels in (key_channels, shape.channels - key_channels):
        sizes = (rows, channels // shape.groups), (channels // shape.groups, shape.classes)
        parts += shape.groups * [[tf.random.stateless_normal(size, seed=(1, 2)) for size in sizes]]
    gradient = tf.random.stateless_normal((rows, shape.classes), seed=(3, 4))

    def products(parts, gradient=None):
        results = []
        # One after another, like those of a head with a memory budget.
        for part, kernel in parts:
            with tf.control_dependencies(results[-1:]):
                results.append(tf.matmul(part, kernel))
                if gradient is not None:
                    results.append(tf.matmul(part, gradient, transpose_a=True))
                    results.append(tf.matmul(gradient, kernel, transpose_b=True))
        return [product[:1, :1] for product in results]

    compiled = tf.function(products)
    return lambda: compiled(parts), lambda: compiled(parts, gradient)


def gap(shape, batch):
    """Returns the same for global average pooling and a linear layer."""
    layers = [tf.keras.layers.GlobalAveragePooling1D(), tf.keras.layers.Dense(shape.classes)]
    return _steps(tf.keras.Sequential(layers), shape, batch)


def _steps(layer, shape, batch, inference_layer=None):
    features, labels = (tf.constant(array) for array in problem(shape, batch))
    if not layer.built:
        layer.build((batch, shape.positions, shape.channels))
    inference_layer = inference_layer or layer

    @tf.function
    def forward(features):
        return inference_layer(features, training=False)

    @tf.function
    def train(features, labels):
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits = layer(features, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        return loss, tape.gradient(loss, [features, *layer.trainable_weights])

    return lambda: forward(features), lambda: train(features, labels)


def reference_module(shape):
    """Returns the reference as a torch.nn.Module with the parameter names of the authors' files."""
    import torch

    class Reference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.key_channels = int(shape.channels * shape.ratio)
            outputs = shape.groups * shape.classes
            value_channels = shape.channels - self.key_channels
            self.query = torch.nn.Conv2d(self.key_channels, outputs, 1, groups=shape.groups)
            self.value = torch.nn.Conv2d(value_channels, outputs, 1, groups=shape.groups)

        def forward(self, features):
            keys = self.query(features[:, : self.key_channels]).flatten(2).softmax(dim=-1)
            values = self.value(features[:, self.key_channels :]).flatten(2)
            sums = (keys * values).sum(dim=-1)
            return sums.reshape(len(features), shape.groups, shape.classes).sum(dim=1)

    return Reference()


def reference(shape, batch, module=None):
    """Returns the same for the reference in eager PyTorch; None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    # Zero lets TensorFlow choose, and PyTorch, which refuses it, chooses as well.
    if threads := tf.config.threading.get_intra_op_parallelism_threads():
        torch.set_num_threads(threads)
    module = module or reference_module(shape)
    features, labels = problem(shape, batch)
    side = int(shape.positions**0.5)
    features = np.ascontiguousarray(features.transpose(0, 2, 1)).reshape(batch, -1, side, side)
    features, labels = torch.tensor(features, requires_grad=True), torch.tensor(labels)

    def forward():
        with torch.no_grad():
            return module(features)

    def train():
        module.zero_grad()
        features.grad = None
        torch.nn.functional.cross_entropy(module(features), labels).backward()

    return forward, train


def matrix_product(side=2048):
    """Returns a function that computes one large product, and its floating-point operations."""
    matrix = tf.random.stateless_normal((side, side), seed=(1, 2))
    multiply = tf.function(lambda: tf.matmul(matrix, matrix))
    return multiply, 2 * side**3
