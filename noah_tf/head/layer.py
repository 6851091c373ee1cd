"""NOAHHead: the layer that replaces the pooling and the linear layer of an image classifier."""

from typing import Any

import tensorflow as tf

from noah_tf.head import memory_plan, poca
from noah_tf.head.base import HeadLayer, flatten_positions, restore_positions
from noah_tf.head.channel_split import kernel_shapes, key_value_channels
from noah_tf.head.dropout import next_seed
from noah_tf.head.gradients import blocked_poca
from noah_tf.head.initializers import (
    default_initializer,
    get_kernel_initializer,
    independent_copy,
)
from noah_tf.head.maps import attention_maps, contribution_maps
from noah_tf.utils.keras_compat import NO_AUTOCAST, add_seed_stream
from noah_tf.utils.validation import (
    check_key_ratio,
    check_positive_int,
    check_positive_number,
    check_rate,
    class_indices,
    is_int,
)

IMPLEMENTATIONS = ("auto", "direct", "blocked")
# Up to this size of the keys "auto" means "direct", so that small heads have all derivatives.
_MAX_DIRECT_BYTES = 2**22


@tf.keras.utils.register_keras_serializable("noah_tf")
class NOAHHead(HeadLayer):
    """Non-global attentive head: class scores from a feature map, with attention per class.

    The layer replaces global pooling and the linear layer of a classifier. It splits the C channels
    into keys and values, and both into N groups. With keys k and values v, which are 1x1
    projections of the channels, the logit of class m is

        a[b, l, n, m] = exp(k[b, l, n, m]) / sum_l' exp(k[b, l', n, m])
        logits[b, m]  = sum_n sum_l a[b, l, n, m] * v[b, l, n, m]

    over positions l and groups n (arXiv 2402.02377, section 3). The head has
    (2N - 1) * num_classes more parameters than a linear layer if `split_key_value` is true.

    Softmax, sums and logits have float32 under every precision policy (float64 under float64).

    Args:
        num_classes: M, the number of classes.
        num_groups: N, the number of groups. It must divide the number of key channels and of value
            channels.
        key_ratio: r in (0, 1), the share of key channels: int(C * r) channels are for the keys.
        dropout: dropout rate of the values in training, in [0, 1).
        split_groups: whether group n uses only the n-th range of channels. If false, every group
            uses all key channels and all value channels.
        split_key_value: whether keys and values use different channels. If false, both use all
            channels, and `key_ratio` has no effect.
        uniform_attention: whether the attention is 1/L at every position: the key kernel is zero
            and not trainable, so the head is average pooling and a linear layer on the value
            channels. For ablations.
        activation: activation of the logits, by name or as a callable. None returns logits.
        implementation: how training computes the gradients. "blocked" uses the closed form, a block
            of classes at a time, within `memory_budget`, and has no second and no forward-mode
            derivatives. "direct" uses automatic differentiation, whose memory grows with
            B * L * N * M. "auto" is "direct" at inference and up to 4 MiB of keys, and "blocked"
            above (sizes that are unknown while tracing count as 32 images or 256 positions). All
            have the same logits, gradients and dropout masks.
        memory_budget: MiB that a blocked training step may hold apart from its inputs, logits and
            gradients. Tensors that do not fit are recomputed. Unknown sizes count as above. XLA may
            exceed the budget.
        kernel_initializer: initializer of both kernels. "reference" is the reference's: a normal
            distribution with standard deviation sqrt(2 / (N * M)). None is the same for at least
            1,000 classes, and otherwise has a standard deviation smaller by min(1, 8 * M / C), with
            which the head learns from few images.
        bias_initializer: initializer of both biases.
        kernel_regularizer: regularizer of both kernels.
        bias_regularizer: regularizer of both biases.
        kernel_constraint: constraint of both kernels.
        bias_constraint: constraint of both biases.
        seed: integer seed of the dropout masks. None derives it from Keras's global seed.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        (B, H, W, C) or (B, L, C), floating point. B, H, W and L may be unknown.

    Output shape:
        (B, num_classes).

    Weights:
        `key_kernel` (G, Ck/G, N·M/G) and `value_kernel` (G, Cv/G, N·M/G), with G = N if the groups
        are split and G = 1 otherwise; `key_bias` and `value_bias` (N, M). The softmax cancels the
        key bias, so it has no effect. The layer has it because the reference's checkpoints do.

    Raises:
        ValueError: an argument is out of range, the features have a rank other than 3 or 4 or an
            unknown number of channels, or `num_groups` does not divide their key and value
            channels.
        TypeError: the features are not floating point.

    Example:

    >>> head = noah_tf.NOAHHead(num_classes=10, num_groups=4, key_ratio=0.5)
    >>> features = tf.random.normal((2, 7, 7, 512))
    >>> head(features).shape
    TensorShape([2, 10])
    >>> head.attention(features, classes=[3]).shape
    TensorShape([2, 7, 7, 1])

    Reference: arXiv 2402.02377, section 3.
    """

    def __init__(
        self,
        num_classes: int,
        num_groups: int = 4,
        key_ratio: float = 0.5,
        dropout: float = 0.0,
        split_groups: bool = True,
        split_key_value: bool = True,
        uniform_attention: bool = False,
        activation: Any = None,
        implementation: str = "auto",
        memory_budget: float = 256,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = check_positive_int("num_classes", num_classes)
        self.num_groups = check_positive_int("num_groups", num_groups)
        self.key_ratio = check_key_ratio(key_ratio)
        self.dropout = check_rate("dropout", dropout)
        self.implementation = implementation
        self.memory_budget = memory_budget
        self.split_groups = bool(split_groups)
        self.split_key_value = bool(split_key_value)
        self.uniform_attention = bool(uniform_attention)
        self.activation = tf.keras.activations.get(activation)
        self.kernel_initializer = get_kernel_initializer(kernel_initializer)
        self.bias_initializer = tf.keras.initializers.get(bias_initializer)
        self.kernel_regularizer = tf.keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = tf.keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = tf.keras.constraints.get(kernel_constraint)
        self.bias_constraint = tf.keras.constraints.get(bias_constraint)
        if seed is not None and not is_int(seed):
            raise ValueError(f"seed must be an integer or None, got {seed!r}.")
        self.seed = None if seed is None else int(seed)
        if self.dropout:
            add_seed_stream(self, self.seed)

    @property
    def implementation(self) -> str:
        """How training computes the gradients. A change has no effect on traced functions."""
        return self._implementation

    @implementation.setter
    def implementation(self, value: str) -> None:
        if value not in IMPLEMENTATIONS:
            raise ValueError(
                f"implementation must be 'auto', 'direct' or 'blocked', got {value!r}."
            )
        self._implementation = value

    @property
    def memory_budget(self) -> float:
        """MiB that a blocked training step may hold. A change has no effect on traced functions."""
        return self._memory_budget

    @memory_budget.setter
    def memory_budget(self, value: float) -> None:
        self._memory_budget = check_positive_number("memory_budget", value, "MiB")

    def build(self, input_shape: Any) -> None:
        """Creates the weights for features of shape (B, H, W, C) or (B, L, C)."""
        self.channels = self.known_channels(input_shape)
        shapes = kernel_shapes(
            self.channels, self.num_classes, self.num_groups, self._split_ratio, self.split_groups
        )
        initializer = self.kernel_initializer
        if initializer is None:
            initializer = default_initializer(self.num_classes, self.channels)
        for index, (name, shape) in enumerate(zip(("key", "value"), shapes, strict=True)):
            fixed = self.uniform_attention and name == "key"
            kernel = self.add_weight(
                name=f"{name}_kernel",
                shape=shape,
                initializer="zeros" if fixed else independent_copy(initializer, index),
                trainable=not fixed,
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )
            bias = self.add_weight(
                name=f"{name}_bias",
                shape=(self.num_groups, self.num_classes),
                initializer=independent_copy(self.bias_initializer, index),
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                **NO_AUTOCAST,
            )
            setattr(self, f"{name}_kernel", kernel)
            setattr(self, f"{name}_bias", bias)
        self.built = True

    def call(self, features: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the class scores (B, num_classes) of features (B, H, W, C) or (B, L, C)."""
        self.check_features(features)
        features = flatten_positions(features)
        dropout = self.dropout if training else 0.0
        function, options = self._implementation_for(features, training)
        logits = function(
            features,
            self._kernel(self.key_kernel),
            self._kernel(self.value_kernel),
            tf.convert_to_tensor(self.value_bias),
            dropout=dropout,
            seed=next_seed(self) if dropout else None,
            accumulate_dtype=self.logits_dtype,
            **options,
        )
        # Adding zero gives the key bias a gradient, which is exactly zero. Optimizers warn about
        # weights without a gradient.
        zero = 0 * tf.reduce_sum(tf.cast(self.key_bias, self.logits_dtype))
        return self.activation(logits + zero)

    def attention(
        self, features: tf.Tensor, classes: Any = None, per_group: bool = False
    ) -> tf.Tensor:
        """Returns the attention of each class: the softmax over positions that weighs the values.

        Args:
            features: (B, H, W, C) or (B, L, C), the input of the layer.
            classes: indices of K classes, or None for all `num_classes`.
            per_group: whether to return one map per group instead of their average.

        Returns:
            (B, H, W, K) or (B, L, K); with `per_group` (B, H, W, N, K) or (B, L, N, K). It sums
            to 1 over the positions.

        Raises:
            ValueError: the layer has no weights yet, or a class is out of range.
        """
        keys, _ = self._parts(features)
        kernel = self._columns(self._kernel(self.key_kernel), classes)
        maps = attention_maps(keys, kernel, self.logits_dtype)
        return restore_positions(maps if per_group else tf.reduce_mean(maps, axis=2), features)

    def contributions(
        self, features: tf.Tensor, classes: Any = None, per_group: bool = False
    ) -> tf.Tensor:
        """Returns the evidence for each class at each position: attention times value.

        The attention distributes the value bias over the positions, so the map sums to the logit
        before `activation` and without dropout. Evidence against a class is negative. With
        `classes`, float16 products may be rounded differently from those of the logits.

        Args:
            features: (B, H, W, C) or (B, L, C), the input of the layer.
            classes: indices of K classes, or None for all `num_classes`.
            per_group: whether to return one map per group instead of their sum.

        Returns:
            (B, H, W, K) or (B, L, K); with `per_group` (B, H, W, N, K) or (B, L, N, K). It sums to
            the logit over positions and groups.

        Raises:
            ValueError: the layer has no weights yet, or a class is out of range.

        Example:

        >>> maps = head.contributions(features, classes=[3])
        >>> tf.reduce_sum(maps, axis=[1, 2])  # = head(features)[:, 3:4]
        """
        keys, values = self._parts(features)
        maps = contribution_maps(
            keys,
            values,
            self._columns(self._kernel(self.key_kernel), classes),
            self._columns(self._kernel(self.value_kernel), classes),
            self._columns(tf.convert_to_tensor(self.value_bias), classes),
            self.logits_dtype,
        )
        return restore_positions(maps if per_group else tf.reduce_sum(maps, axis=2), features)

    def check_built(self) -> None:
        """Raises a ValueError if the layer has no weights yet."""
        if not self.built:
            raise ValueError(f"{self.name} has no weights yet: call it on features first.")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal layer."""
        config = super().get_config()
        config.update(
            num_classes=self.num_classes,
            num_groups=self.num_groups,
            key_ratio=self.key_ratio,
            dropout=self.dropout,
            split_groups=self.split_groups,
            split_key_value=self.split_key_value,
            uniform_attention=self.uniform_attention,
            activation=tf.keras.activations.serialize(self.activation),
            implementation=self.implementation,
            memory_budget=self.memory_budget,
            kernel_initializer=tf.keras.initializers.serialize(self.kernel_initializer),
            bias_initializer=tf.keras.initializers.serialize(self.bias_initializer),
            kernel_regularizer=tf.keras.regularizers.serialize(self.kernel_regularizer),
            bias_regularizer=tf.keras.regularizers.serialize(self.bias_regularizer),
            kernel_constraint=tf.keras.constraints.serialize(self.kernel_constraint),
            bias_constraint=tf.keras.constraints.serialize(self.bias_constraint),
            seed=self.seed,
        )
        return config

    @property
    def _split_ratio(self):
        return self.key_ratio if self.split_key_value else None

    def _implementation_for(self, features, training):
        """Returns the function that computes the logits, and its options."""
        large = self.implementation == "auto" and self._key_bytes(features) > _MAX_DIRECT_BYTES
        if self.implementation == "blocked" or (large and training):
            return blocked_poca, {"memory_budget": self.memory_budget}
        options = {"block_outputs": self._block_outputs(features)}
        # Unknown sizes may mean an export, whose graph should have no branches.
        if large and None not in features.shape:
            options["key_norms"] = poca.largest_norms(self._kernel(self.key_kernel))
        return poca.poca, options

    def _key_bytes(self, features):
        outputs, itemsize = self.num_groups * self.num_classes, tf.as_dtype(self.logits_dtype).size
        return memory_plan.tensor_bytes(*features.shape[:2], outputs, itemsize)

    def _block_outputs(self, features):
        """Returns how many outputs the direct implementation computes at a time."""
        outputs = self.key_kernel.shape[-1]
        if self.implementation == "direct":
            return outputs
        itemsize = tf.as_dtype(self.logits_dtype).size
        return memory_plan.block_outputs(*features.shape[:2], outputs, itemsize)

    def _parts(self, features):
        """Returns the channels of the keys (B, L, Ck) and of the values (B, L, Cv)."""
        self.check_built()
        features = tf.convert_to_tensor(features)
        self.check_features(features)
        flat = flatten_positions(tf.cast(features, self.compute_dtype))
        if not self.split_key_value:
            return flat, flat
        sizes = key_value_channels(self.channels, self._split_ratio)
        return tf.split(flat, sizes, axis=-1)

    def _columns(self, weight, classes):
        """Returns the weights of some classes: a kernel (G, c, N/G, K), or a bias (N, K)."""
        if weight.shape.rank == 3:
            weight = tf.reshape(weight, (*weight.shape[:2], -1, self.num_classes))
        if classes is None:
            return weight
        return tf.gather(weight, class_indices(classes, self.num_classes), axis=-1)

    def _kernel(self, kernel):
        return tf.cast(kernel, self.compute_dtype)
