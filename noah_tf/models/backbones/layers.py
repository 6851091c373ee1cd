"""Layers and initializers that the architectures share."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from noah_tf.head import Dropout, logits_dtype
from noah_tf.utils.validation import is_int

layers = tf.keras.layers
initializers = tf.keras.initializers

# An initializer object draws the same numbers each time that it is called. The functions below
# therefore return a new object for every layer.


def kaiming_normal() -> Any:
    """Returns a normal initializer with variance 2 / fan-out, for ordinary convolutions."""
    return initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def torch_uniform(fan_in: int) -> Any:
    """Returns a uniform initializer on ±1/sqrt(fan_in), PyTorch's default."""
    return initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def normal(std: float) -> Any:
    """Returns a normal initializer with mean 0."""
    return initializers.RandomNormal(stddev=std)


def lecun_normal() -> Any:
    """Returns a truncated normal initializer with variance 1 / fan-in."""
    return initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")


def lecun_normal_per_group(num_groups: int) -> Any:
    """Returns `lecun_normal` for the kernels of a NOAH head with `num_groups` groups.

    The fan-in of a group is the number of its own channels.
    """
    # Keras counts the channels of all groups as the fan-in, so the variance is scaled.
    return initializers.VarianceScaling(num_groups, "fan_in", "truncated_normal")


def check_input_shape(architecture: str, input_shape: Any, divisor: int | None = None) -> None:
    """Checks the shape of the images that a model is built for.

    Args:
        architecture: the architecture's name, for the error message.
        input_shape: (height, width, channels) in pixels.
        divisor: height and width must be multiples of it. None allows any height and width, even
            None.

    Raises:
        ValueError: the architecture cannot take the shape.
    """
    try:
        sizes = tuple(input_shape)
    except TypeError:
        sizes = ()
    are_positive = all(size is None or (is_int(size) and size > 0) for size in sizes)
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


def conv(
    x: Any,
    filters: int,
    kernel_size: int,
    name: str,
    strides: int = 1,
    initializer: Callable[[], Any] = kaiming_normal,
) -> Any:
    """Applies a convolution without a bias, padded by kernel_size // 2 on every side."""
    x, padding = _pad(x, kernel_size, strides, name)
    return layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding,
        use_bias=False,
        kernel_initializer=initializer(),
        name=name,
    )(x)


def depthwise_conv(
    x: Any, kernel_size: int, name: str, strides: int = 1, initializer: Any = None
) -> Any:
    """Applies a depthwise convolution without a bias, padded by kernel_size // 2 on every side."""
    # PyTorch counts all channels in the fan-out of a depthwise kernel.
    std = (2 / (kernel_size**2 * x.shape[-1])) ** 0.5
    x, padding = _pad(x, kernel_size, strides, name)
    return layers.DepthwiseConv2D(
        kernel_size,
        strides,
        padding,
        use_bias=False,
        depthwise_initializer=initializer or normal(std),
        name=name,
    )(x)


def _pad(x: Any, kernel_size: int, strides: int, name: str) -> tuple[Any, str]:
    # With strides, Keras's "same" pads one side more than the other.
    if strides == 1 or kernel_size == 1:
        return x, "same"
    return layers.ZeroPadding2D(kernel_size // 2, name=f"{name}.pad")(x), "valid"


def max_pool(x: Any, name: str) -> Any:
    """Applies 3x3 max pooling with strides 2, padded by 1, to a map without negative values."""
    x = layers.ZeroPadding2D(1, name=f"{name}.pad")(x)
    return layers.MaxPooling2D(3, 2, name=name)(x)


def batch_norm(x: Any, name: str) -> Any:
    """Applies batch normalization with the reference's epsilon and momentum (PyTorch's 0.1)."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def layer_norm(x: Any, name: str, epsilon: float = 1e-6) -> Any:
    """Applies layer normalization over the channels."""
    return layers.LayerNormalization(epsilon=epsilon, name=name)(x)


def residual(x: Any, branch: Any, name: str, drop_path: float = 0.0) -> Any:
    """Adds a branch to x. During training an example skips it with probability `drop_path`."""
    if drop_path:
        branch = Dropout(drop_path, per_example=True, name=f"{name}.drop_path")(branch)
    return layers.Add(name=name)([x, branch])


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Returns the drop rates of `depth` blocks, which increase linearly from 0 to `rate`."""
    return [rate * index / max(depth - 1, 1) for index in range(depth)]


def patches(x: Any, patch_size: int, width: int, name: str) -> Any:
    """Projects non-overlapping square patches to tokens (B, L, width), row by row.

    The initializers are PyTorch's for a convolution.
    """
    rows, columns = x.shape[1] // patch_size, x.shape[2] // patch_size
    fan_in = patch_size**2 * x.shape[-1]
    x = layers.Conv2D(
        width,
        patch_size,
        patch_size,
        kernel_initializer=torch_uniform(fan_in),
        bias_initializer=torch_uniform(fan_in),
        name=name,
    )(x)
    return layers.Reshape((rows * columns, width), name=f"{name}.tokens")(x)


def linear(x: Any, units: int, name: str) -> Any:
    """Applies a linear layer with the transformers' initializer.

    The reference truncates its normal distribution at 100 standard deviations, so never.
    """
    return layers.Dense(units, kernel_initializer=normal(0.02), name=name)(x)


def mlp_linear(x: Any, units: int, name: str) -> Any:
    """Applies a linear layer with the initializers of Mixer and gMLP."""
    return layers.Dense(
        units, kernel_initializer="glorot_uniform", bias_initializer=normal(1e-6), name=name
    )(x)


def mlp(
    x: Any, hidden: int, name: str, dropout: float = 0.0, linear: Callable[..., Any] = linear
) -> Any:
    """Applies two linear layers with an exact GELU between them."""
    width = x.shape[-1]
    x = layers.Activation("gelu", name=f"{name}.act")(linear(x, hidden, f"{name}.fc1"))
    x = maybe_dropout(x, dropout, f"{name}.drop1")
    return maybe_dropout(linear(x, width, f"{name}.fc2"), dropout, f"{name}.drop2")


def class_token_head(
    backbone: tf.keras.Model, num_classes: int, dropout: float, activation: Any
) -> Any:
    """Returns the logits that a linear layer computes from the first token of a backbone."""
    tokens = backbone.output
    x = layers.Cropping1D((0, tokens.shape[1] - 1), name="class_token")(tokens)
    x = layers.Flatten(name="class_token.flat")(x)
    return linear_head(x, num_classes, dropout, activation, "head", normal(0.02))


def linear_head(
    x: Any, num_classes: int, dropout: float, activation: Any, name: str, initializer: Any
) -> Any:
    """Applies dropout and a linear layer, in float32 under every mixed policy."""
    dtype = logits_dtype(x.dtype)
    x = Dropout(dropout, name=f"{name}.dropout", dtype=dtype)(x)
    return layers.Dense(
        num_classes, activation, kernel_initializer=initializer, name=name, dtype=dtype
    )(x)


def maybe_dropout(x: Any, rate: float, name: str) -> Any:
    """Applies dropout if the rate is not 0."""
    return Dropout(rate, name=name)(x) if rate else x


@tf.keras.utils.register_keras_serializable("noah_tf")
def hard_sigmoid(x: tf.Tensor) -> tf.Tensor:
    """Returns relu6(x + 3) / 6. In Keras 2, `hard_sigmoid` is another function."""
    return tf.nn.relu6(x + 3) / 6


@tf.keras.utils.register_keras_serializable("noah_tf")
def hard_swish(x: tf.Tensor) -> tf.Tensor:
    """Returns x * relu6(x + 3) / 6."""
    return x * hard_sigmoid(x)


@tf.keras.utils.register_keras_serializable("noah_tf")
class ClassToken(tf.keras.layers.Layer):
    """Prepends a trainable token to the patch tokens: (B, L, C) to (B, 1 + L, C)."""

    def build(self, input_shape: Any) -> None:
        """Creates the token, (1, 1, C)."""
        self.token = self.add_weight(
            name="token", shape=(1, 1, input_shape[-1]), initializer=normal(0.02)
        )
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the class token and the patch tokens, (B, 1 + L, C)."""
        shape = (tf.shape(x)[0], 1, x.shape[-1])
        return tf.concat([tf.broadcast_to(tf.cast(self.token, x.dtype), shape), x], axis=1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns (B, 1 + L, C)."""
        return (input_shape[0], input_shape[1] + 1, input_shape[2])


@tf.keras.utils.register_keras_serializable("noah_tf")
class PositionEmbedding(tf.keras.layers.Layer):
    """Adds a trainable vector to every token.

    Args:
        grid: (rows, columns) of the patch tokens.
        num_prefix_tokens: number of tokens before them, such as a class token.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, grid: Sequence[int], num_prefix_tokens: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid = tuple(grid)
        self.num_prefix_tokens = num_prefix_tokens

    def build(self, input_shape: Any) -> None:
        """Creates the vectors, (1, num_prefix_tokens + rows * columns, C)."""
        rows, columns = self.grid
        self.embedding = self.add_weight(
            name="embedding",
            shape=(1, self.num_prefix_tokens + rows * columns, input_shape[-1]),
            initializer=normal(0.02),
        )
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the sum of each token and its vector."""
        return x + tf.cast(self.embedding, x.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments from which `from_config` creates an equal layer."""
        return {
            **super().get_config(),
            "grid": self.grid,
            "num_prefix_tokens": self.num_prefix_tokens,
        }


@tf.keras.utils.register_keras_serializable("noah_tf")
class DotProductAttention(tf.keras.layers.Layer):
    """Multi-head attention between tokens that other layers have projected.

    It is called on [queries (B, L, C), keys and values (B, K, 2C)] and returns (B, L, C). The
    softmax runs in float32 under a mixed policy.

    Args:
        num_heads: number of heads, a divisor of C.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, num_heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the means of the values, weighted by softmax(query · key / sqrt(C / heads))."""
        query, key_value = inputs
        length, channels = query.shape[1:]
        key, value = tf.split(key_value, 2, axis=-1)
        query, key, value = (self._split_heads(tensor) for tensor in (query, key, value))
        query *= (channels // self.num_heads) ** -0.5
        scores = tf.matmul(query, key, transpose_b=True)
        if scores.dtype.size < 4:
            scores = tf.cast(scores, tf.float32)
        weights = tf.cast(tf.nn.softmax(scores), value.dtype)
        outputs = tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))
        return tf.reshape(outputs, (-1, length, channels))

    def _split_heads(self, x: tf.Tensor) -> tf.Tensor:
        """Reshapes (B, L, C) to (B, heads, L, C / heads)."""
        x = tf.reshape(x, (-1, x.shape[1], self.num_heads, x.shape[2] // self.num_heads))
        return tf.transpose(x, (0, 2, 1, 3))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the queries."""
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments from which `from_config` creates an equal layer."""
        return {**super().get_config(), "num_heads": self.num_heads}


@tf.keras.utils.register_keras_serializable("noah_tf")
class ChannelSplit(tf.keras.layers.Layer):
    """Splits the channels into consecutive parts.

    Args:
        sizes: number of channels of each part.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sizes = list(sizes)

    def call(self, x: tf.Tensor) -> list[tf.Tensor]:
        """Returns the parts."""
        return tf.split(x, self.sizes, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of each part."""
        return [(*input_shape[:-1], size) for size in self.sizes]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments from which `from_config` creates an equal layer."""
        return {**super().get_config(), "sizes": self.sizes}


@tf.keras.utils.register_keras_serializable("noah_tf")
class ChannelShuffle(tf.keras.layers.Layer):
    """Interleaves groups of channels: the first of each group, then the second of each, ...

    Args:
        groups: number of groups, a divisor of the number of channels.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, groups: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups = groups

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the channels in their new order."""
        shape, channels = tf.shape(x), x.shape[-1]
        x = tf.reshape(x, (-1, self.groups, channels // self.groups))
        x = tf.reshape(tf.transpose(x, (0, 2, 1)), shape)
        return tf.ensure_shape(x, (None, None, None, channels))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments from which `from_config` creates an equal layer."""
        return {**super().get_config(), "groups": self.groups}
