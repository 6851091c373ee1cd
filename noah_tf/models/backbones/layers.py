"""What several architectures share: padding, initialisation, patches, tokens, attention, MLPs."""

import numbers

import tensorflow as tf

from noah_tf.head.dropout import Dropout
from noah_tf.head.poca import logits_dtype

layers = tf.keras.layers
initializers = tf.keras.initializers

# An initializer without a seed draws the same numbers whenever it is used again, so each of the
# functions below makes a new one.


def kaiming_normal():
    """Normal with variance 2 / fan-out, for convolutions that are not depthwise."""
    return initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def torch_uniform(fan_in):
    """Uniform on +-1/sqrt(fan_in), which PyTorch gives convolutions and linear layers."""
    return initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def normal(std):
    """Normal with mean 0."""
    return initializers.RandomNormal(stddev=std)


def lecun_normal():
    """Truncated normal with variance 1 / fan-in."""
    return initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")


def lecun_normal_per_group(num_groups):
    """`lecun_normal` for the kernels of a NOAH head, whose groups see their own channels alone."""
    # Keras counts the channels of all groups as the fan-in.
    return initializers.VarianceScaling(num_groups, "fan_in", "truncated_normal")


def check_input_shape(architecture, input_shape, divisor=None):
    """Refuses a shape of images that an architecture cannot take.

    Args:
        architecture: its name, for the message.
        input_shape: (height, width, channels) in pixels.
        divisor: what height and width have to be multiples of; None allows any, even unknown.

    Raises:
        ValueError: says which shape would do.
    """
    try:
        sizes = tuple(input_shape)
    except TypeError:
        sizes = ()
    known = [size for size in sizes if size is not None]
    are_positive = all(
        isinstance(size, numbers.Integral) and not isinstance(size, bool) and size > 0
        for size in known
    )
    if len(sizes) != 3 or sizes[2] is None or not are_positive:
        raise ValueError(
            f"input_shape must be (height, width, channels) such as (224, 224, 3), got "
            f"{input_shape!r}."
        )
    if divisor and any(size is None or size % divisor for size in sizes[:2]):
        raise ValueError(
            f"{architecture} needs images whose height and width are multiples of {divisor}, "
            f"got input_shape={sizes}."
        )


def conv(x, filters, kernel_size, name, strides=1, initializer=kaiming_normal):
    """Convolution without a bias, padded by kernel_size // 2 on every side."""
    x, padding = _padded(x, kernel_size, strides, name)
    return layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding,
        use_bias=False,
        kernel_initializer=initializer(),
        name=name,
    )(x)


def depthwise_conv(x, kernel_size, name, strides=1, initializer=None):
    """Depthwise convolution without a bias, padded by kernel_size // 2 on every side."""
    # PyTorch counts the fan-out of a depthwise kernel over all its channels.
    std = (2 / (kernel_size**2 * x.shape[-1])) ** 0.5
    x, padding = _padded(x, kernel_size, strides, name)
    return layers.DepthwiseConv2D(
        kernel_size,
        strides,
        padding,
        use_bias=False,
        depthwise_initializer=initializer or normal(std),
        name=name,
    )(x)


def _padded(x, kernel_size, strides, name):
    # With strides, "same" pads one side more than the other; without, it is symmetric.
    if strides == 1 or kernel_size == 1:
        return x, "same"
    return layers.ZeroPadding2D(kernel_size // 2, name=f"{name}.pad")(x), "valid"


def max_pool(x, name):
    """3x3 max pooling with strides 2 of a map without negative values, padded by 1."""
    x = layers.ZeroPadding2D(1, name=f"{name}.pad")(x)
    return layers.MaxPooling2D(3, 2, name=name)(x)


def batch_norm(x, name):
    """Batch normalisation with the reference's epsilon and momentum (PyTorch's 0.1)."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def layer_norm(x, name, epsilon=1e-6):
    """Layer normalisation over the channels."""
    return layers.LayerNormalization(epsilon=epsilon, name=name)(x)


def residual(x, branch, name, drop_path=0.0):
    """x + branch; in training the branch of an image is left out with probability `drop_path`."""
    if drop_path:
        branch = Dropout(drop_path, per_example=True, name=f"{name}.drop_path")(branch)
    return layers.Add(name=name)([x, branch])


def rising(rate, depth):
    """The drop-path rates of `depth` blocks: linear from 0 to `rate`."""
    return [rate * index / max(depth - 1, 1) for index in range(depth)]


def patches(x, patch_size, width, name, kernel_initializer=None, bias_initializer=None):
    """Non-overlapping square patches, projected: tokens (B, L, width), row by row.

    The initializers are PyTorch's for a convolution, if none are given.
    """
    rows, columns = x.shape[1] // patch_size, x.shape[2] // patch_size
    fan_in = patch_size**2 * x.shape[-1]
    x = layers.Conv2D(
        width,
        patch_size,
        patch_size,
        kernel_initializer=kernel_initializer or torch_uniform(fan_in),
        bias_initializer=bias_initializer or torch_uniform(fan_in),
        name=name,
    )(x)
    return layers.Reshape((rows * columns, width), name=f"{name}.tokens")(x)


def linear(x, units, name):
    """Linear layer as the transformers initialise it; their truncation is at 100 deviations."""
    return layers.Dense(units, kernel_initializer=normal(0.02), name=name)(x)


def mlp_linear(x, units, name):
    """Linear layer as Mixer and gMLP initialise it."""
    return layers.Dense(
        units, kernel_initializer="glorot_uniform", bias_initializer=normal(1e-6), name=name
    )(x)


def mlp(x, hidden, name, dropout=0.0, linear=linear):
    """Two linear layers with an exact GELU between them."""
    width = x.shape[-1]
    x = layers.Activation("gelu", name=f"{name}.act")(linear(x, hidden, f"{name}.fc1"))
    x = dropped(x, dropout, f"{name}.drop1")
    return dropped(linear(x, width, f"{name}.fc2"), dropout, f"{name}.drop2")


def class_token_head(tokens, num_classes, dropout, activation):
    """Logits of the first token by a linear layer, named as the reference's."""
    x = layers.Cropping1D((0, tokens.shape[1] - 1), name="class_token")(tokens)
    x = layers.Flatten(name="class_token.flat")(x)
    return linear_head(x, num_classes, dropout, activation, "head", normal(0.02))


def linear_head(x, num_classes, dropout, activation, name, initializer):
    """Dropout and a linear layer, in float32 under every mixed policy."""
    dtype = logits_dtype(x.dtype)
    x = Dropout(dropout, name=f"{name}.dropout", dtype=dtype)(x)
    return layers.Dense(
        num_classes, activation, kernel_initializer=initializer, name=name, dtype=dtype
    )(x)


def dropped(x, rate, name):
    """Dropout, where there is any."""
    return Dropout(rate, name=name)(x) if rate else x


@tf.keras.utils.register_keras_serializable("noah_tf")
def hard_sigmoid(x):
    """relu6(x + 3) / 6. Keras 2 means another function by this name."""
    return tf.nn.relu6(x + 3) / 6


@tf.keras.utils.register_keras_serializable("noah_tf")
def hard_swish(x):
    """x * relu6(x + 3) / 6."""
    return x * hard_sigmoid(x)


@tf.keras.utils.register_keras_serializable("noah_tf")
class ClassToken(tf.keras.layers.Layer):
    """Puts a learned token in front of the patch tokens: (B, L, C) to (B, 1 + L, C)."""

    def build(self, input_shape):
        """Creates the token, (1, 1, C)."""
        self.token = self.add_weight(
            name="token", shape=(1, 1, input_shape[-1]), initializer=normal(0.02)
        )
        self.built = True

    def call(self, x):
        """The tokens with the class token in front."""
        shape = (tf.shape(x)[0], 1, x.shape[-1])
        return tf.concat([tf.broadcast_to(tf.cast(self.token, x.dtype), shape), x], axis=1)

    def compute_output_shape(self, input_shape):
        """(B, 1 + L, C)."""
        return (input_shape[0], input_shape[1] + 1, input_shape[2])


@tf.keras.utils.register_keras_serializable("noah_tf")
class PositionEmbedding(tf.keras.layers.Layer):
    """Adds a learned vector to every token.

    Args:
        grid: (rows, columns) of the patch tokens.
        num_prefix_tokens: how many tokens stand in front of them.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, grid, num_prefix_tokens=0, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)
        self.num_prefix_tokens = num_prefix_tokens

    def build(self, input_shape):
        """Creates the table, (1, num_prefix_tokens + rows * columns, C)."""
        rows, columns = self.grid
        self.embedding = self.add_weight(
            name="embedding",
            shape=(1, self.num_prefix_tokens + rows * columns, input_shape[-1]),
            initializer=normal(0.02),
        )
        self.built = True

    def call(self, x):
        """The tokens, each with its vector added."""
        return x + tf.cast(self.embedding, x.dtype)

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape

    def get_config(self):
        """The arguments that make an equal layer."""
        return {
            **super().get_config(),
            "grid": self.grid,
            "num_prefix_tokens": self.num_prefix_tokens,
        }


@tf.keras.utils.register_keras_serializable("noah_tf")
class DotProductAttention(tf.keras.layers.Layer):
    """Multi-head attention between projected tokens; the projections are layers of their own.

    Called on [queries (B, L, C), keys and values (B, K, 2C)] it returns (B, L, C). The softmax
    runs in float32 under a mixed policy.

    Args:
        num_heads: number of heads; divides C.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def call(self, inputs):
        """Every query's mean of the values, weighted by softmax(query . key / sqrt(C / heads))."""
        query, key_value = inputs
        length, channels = query.shape[1:]
        key, value = tf.split(key_value, 2, axis=-1)
        query, key, value = (self._heads(tensor) for tensor in (query, key, value))
        query *= (channels // self.num_heads) ** -0.5
        scores = tf.matmul(query, key, transpose_b=True)
        if scores.dtype.size < 4:
            scores = tf.cast(scores, tf.float32)
        weights = tf.cast(tf.nn.softmax(scores), value.dtype)
        mixed = tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))
        return tf.reshape(mixed, (-1, length, channels))

    def _heads(self, x):
        """(B, L, C) to (B, heads, L, C / heads)."""
        x = tf.reshape(x, (-1, x.shape[1], self.num_heads, x.shape[2] // self.num_heads))
        return tf.transpose(x, (0, 2, 1, 3))

    def compute_output_shape(self, input_shape):
        """The queries'."""
        return input_shape[0]

    def get_config(self):
        """The arguments that make an equal layer."""
        return {**super().get_config(), "num_heads": self.num_heads}


@tf.keras.utils.register_keras_serializable("noah_tf")
class ChannelSplit(tf.keras.layers.Layer):
    """Cuts the channels into consecutive parts.

    Args:
        sizes: channels of each part.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, sizes, **kwargs):
        super().__init__(**kwargs)
        self.sizes = list(sizes)

    def call(self, x):
        """A list of the parts."""
        return tf.split(x, self.sizes, axis=-1)

    def compute_output_shape(self, input_shape):
        """One shape a part."""
        return [(*input_shape[:-1], size) for size in self.sizes]

    def get_config(self):
        """The arguments that make an equal layer."""
        return {**super().get_config(), "sizes": self.sizes}


@tf.keras.utils.register_keras_serializable("noah_tf")
class ChannelShuffle(tf.keras.layers.Layer):
    """Interleaves groups of channels: the first of each group, then the second of each, ...

    Args:
        groups: number of groups; divides the channels.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, groups, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups

    def call(self, x):
        """The same channels in another order."""
        shape, channels = tf.shape(x), x.shape[-1]
        x = tf.reshape(x, (-1, self.groups, channels // self.groups))
        x = tf.reshape(tf.transpose(x, (0, 2, 1)), shape)
        return tf.ensure_shape(x, (None, None, None, channels))

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape

    def get_config(self):
        """The arguments that make an equal layer."""
        return {**super().get_config(), "groups": self.groups}
