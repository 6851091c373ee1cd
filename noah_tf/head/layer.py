"""NOAHHead: the layer that takes the place of pooling and the linear classifier."""

import numbers

import tensorflow as tf

from noah_tf.head import memory_plan, poca
from noah_tf.head.channel_split import kernel_shapes, key_value_channels
from noah_tf.head.dropout import next_seed
from noah_tf.head.features import (
    check_features,
    flatten_positions,
    known_channels,
    restore_positions,
)
from noah_tf.head.gradients import blocked_poca
from noah_tf.head.initializers import independent, reference_initializer
from noah_tf.utils.keras_compat import NO_AUTOCAST, add_seed_stream
from noah_tf.utils.validation import (
    check_key_ratio,
    check_positive_int,
    check_positive_number,
    check_rate,
    class_indices,
)

# "auto" is direct up to here, so that small heads have all derivatives.
_MOST_DIRECT_BYTES = 2**22


@tf.keras.utils.register_keras_serializable("noah_tf")
class NOAHHead(tf.keras.layers.Layer):
    """Non-global attentive head: for every class it learns where to look, and sums what it sees.

    The channels are split into keys and values, and both into `num_groups` groups. In every group
    a 1x1 projection of the keys, softmaxed over the positions, weighs a 1x1 projection of the
    values; the logits are the sum over positions and groups. A head of N groups holds
    (2N - 1) * num_classes parameters more than a linear layer when `key_ratio` splits the channels
    between keys and values.

    Softmax and sums run in float32 (float64 under a float64 policy) whatever the precision policy
    is, and the logits have that dtype.

    Args:
        num_classes: M, the number of classes.
        num_groups: N, the number of groups; divides the key and the value channels.
        key_ratio: r in (0, 1), the share of the channels that are keys: int(C * r) of C.
        dropout: rate of the dropout on the values while training, in [0, 1).
        split_groups: whether group n sees only the n-th run of channels, or all of them.
        split_key_value: whether keys and values share out the channels, or both see all of
            them; `key_ratio` then has no effect.
        uniform_attention: whether every class looks at all positions alike: the key kernel is zero
            and not trained, and the head is average pooling and a linear layer of the value
            channels. For ablations.
        activation: what to apply to the logits, by name or as a callable; None leaves logits.
        implementation: how training computes the gradients. "blocked" is in closed form, a block
            of classes at a time, within `memory_budget`; it has no second and no forward-mode
            derivatives. "direct" leaves them to automatic differentiation, whose memory grows with
            B * L * N * num_classes. "auto" is "direct" up to 4 MiB of keys (a size that is unknown
            while tracing counts as 32 images or 256 positions) and where `training` is not true,
            and "blocked" beyond. All have the same logits, gradients and dropout masks.
        memory_budget: MiB that a blocked training step may hold beside its inputs, logits and
            gradients. What does not fit is recomputed. Sizes that are unknown while tracing count
            as above, and XLA need not heed it.
        kernel_initializer: initializer of both kernels; None is the reference's, Kaiming normal
            by fan-out: standard deviation sqrt(2 / (N * M)).
        bias_initializer: initializer of both biases.
        kernel_regularizer: regularizer of both kernels.
        bias_regularizer: regularizer of both biases.
        kernel_constraint: constraint of both kernels.
        bias_constraint: constraint of both biases.
        seed: integer that makes the dropout masks reproducible; None follows Keras's global seed.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        (B, H, W, C) or (B, L, C), floating point. B, H, W and L may be unknown.

    Output shape:
        (B, num_classes).

    Weights:
        `key_kernel` (G, Ck/G, N·M/G) and `value_kernel` (G, Cv/G, N·M/G), with G = N if the groups
        are split and 1 otherwise; `key_bias` and `value_bias` (N, M). The key bias cannot change
        the output (softmax cancels it); it is kept because the reference's checkpoints hold it.

    Raises:
        ValueError: an argument is out of range, the features have another rank than 3 or 4 or an
            unknown number of channels, or `num_groups` does not divide their two parts.
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
        num_classes,
        num_groups=4,
        key_ratio=0.5,
        dropout=0.0,
        split_groups=True,
        split_key_value=True,
        uniform_attention=False,
        activation=None,
        implementation="auto",
        memory_budget=256,
        kernel_initializer=None,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        seed=None,
        **kwargs,
    ):
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
        self.kernel_initializer = tf.keras.initializers.get(
            reference_initializer() if kernel_initializer is None else kernel_initializer
        )
        self.bias_initializer = tf.keras.initializers.get(bias_initializer)
        self.kernel_regularizer = tf.keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = tf.keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = tf.keras.constraints.get(kernel_constraint)
        self.bias_constraint = tf.keras.constraints.get(bias_constraint)
        if seed is not None and not isinstance(seed, numbers.Integral):
            raise ValueError(f"seed must be an integer or None, got {seed!r}.")
        self.seed = None if seed is None else int(seed)
        # C, which `build` sets.
        self.channels: int | None = None
        if self.dropout:
            add_seed_stream(self, self.seed)

    @property
    def implementation(self):
        """How training computes the gradients; what is traced already does not change."""
        return self._implementation

    @implementation.setter
    def implementation(self, value):
        if value not in ("auto", "direct", "blocked"):
            raise ValueError(
                f"implementation must be 'auto', 'direct' or 'blocked', got {value!r}."
            )
        self._implementation = value

    @property
    def memory_budget(self):
        """MiB that a blocked training step may hold; what is traced already does not change."""
        return self._memory_budget

    @memory_budget.setter
    def memory_budget(self, value):
        self._memory_budget = check_positive_number("memory_budget", value, "MiB")

    def build(self, input_shape):
        """Creates the weights for features of shape (B, H, W, C) or (B, L, C)."""
        self.channels = known_channels(self, input_shape)
        shapes = kernel_shapes(
            self.channels, self.num_classes, self.num_groups, self._split_ratio, self.split_groups
        )
        for draw, (name, shape) in enumerate(zip(("key", "value"), shapes, strict=True)):
            fixed = self.uniform_attention and name == "key"
            initializer = "zeros" if fixed else independent(self.kernel_initializer, draw)
            kernel = self.add_weight(
                name=f"{name}_kernel",
                shape=shape,
                initializer=initializer,
                trainable=not fixed,
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )
            bias = self.add_weight(
                name=f"{name}_bias",
                shape=(self.num_groups, self.num_classes),
                initializer=independent(self.bias_initializer, draw),
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                **NO_AUTOCAST,
            )
            setattr(self, f"{name}_kernel", kernel)
            setattr(self, f"{name}_bias", bias)
        self.built = True

    def call(self, features, training=None):
        """Class scores, (B, num_classes), of features (B, H, W, C) or (B, L, C)."""
        check_features(self, features, self.channels)
        features = flatten_positions(features)
        dropout = self.dropout if training else 0.0
        function, options = self._chosen(features, training)
        logits = function(
            features,
            self._kernel(self.key_kernel),
            self._kernel(self.value_kernel),
            tf.convert_to_tensor(self.value_bias),
            dropout=dropout,
            seed=next_seed(self) if dropout else None,
            accumulate_dtype=self._logits_dtype,
            **options,
        )
        # Adds zero. It gives the key bias its gradient, which is exactly zero, where leaving the
        # bias out would make optimizers complain of a weight without one.
        zero = 0 * tf.reduce_sum(tf.cast(self.key_bias, self._logits_dtype))
        return self.activation(logits + zero)

    def attention(self, features, classes=None, per_group=False):
        """Where each class is seen: the softmax over positions that weighs the values.

        Args:
            features: (B, H, W, C) or (B, L, C), as the layer was called with.
            classes: indices of the K classes wanted, or None for all `num_classes`.
            per_group: whether to return one map a group in place of their average.

        Returns:
            (B, H, W, K) or (B, L, K); with `per_group` (B, H, W, N, K) or (B, L, N, K). It sums
            to 1 over the positions.

        Raises:
            ValueError: the layer has no weights yet, or a class is out of range.
        """
        keys, _ = self._parts(features)
        kernel = self._columns(self._kernel(self.key_kernel), classes)
        maps = poca.poca_attention(keys, kernel, self._logits_dtype)
        return restore_positions(maps if per_group else tf.reduce_mean(maps, axis=2), features)

    def contributions(self, features, classes=None, per_group=False):
        """The evidence for each class at each place: attention times value.

        The value's bias is spread as the attention is, so the map sums over the positions to the
        logit, as it is without dropout and before `activation`. What speaks against a class is
        negative. With `classes`, products in float16 may round otherwise than those of the logits.

        Args:
            features: (B, H, W, C) or (B, L, C), as the layer was called with.
            classes: indices of the K classes wanted, or None for all `num_classes`.
            per_group: whether to return one map a group in place of their sum.

        Returns:
            (B, H, W, K) or (B, L, K); with `per_group` (B, H, W, N, K) or (B, L, N, K), which sums
            to the logit over positions and groups.

        Raises:
            ValueError: the layer has no weights yet, or a class is out of range.

        Example:

        >>> maps = head.contributions(features, classes=[3])
        >>> tf.reduce_sum(maps, axis=[1, 2])  # = head(features)[:, 3:4]
        """
        keys, values = self._parts(features)
        kernels = [self._kernel(kernel) for kernel in (self.key_kernel, self.value_kernel)]
        maps = poca.poca_contributions(
            keys,
            values,
            *(self._columns(kernel, classes) for kernel in kernels),
            self._columns(tf.convert_to_tensor(self.value_bias), classes),
            self._logits_dtype,
        )
        return restore_positions(maps if per_group else tf.reduce_sum(maps, axis=2), features)

    def check_built(self):
        """Raises a ValueError where the layer has no weights yet."""
        if not self.built:
            raise ValueError(f"{self.name} has no weights yet: call it on features first.")

    def compute_output_shape(self, input_shape):
        """(B, num_classes)."""
        return (input_shape[0], self.num_classes)

    def compute_output_spec(self, features, training=None):
        """Keras 3: what `call` returns, whose dtype is not the policy's compute dtype."""
        check_features(self, features, self.channels)
        shape = self.compute_output_shape(features.shape)
        return tf.keras.KerasTensor(shape, dtype=self._logits_dtype)

    def get_config(self):
        """The arguments that make an equal layer."""
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
    def _logits_dtype(self):
        return poca.logits_dtype(self.compute_dtype)

    @property
    def _split_ratio(self):
        return self.key_ratio if self.split_key_value else None

    def _chosen(self, features, training):
        """The function that computes the logits, and its options."""
        large = self.implementation == "auto" and self._key_bytes(features) > _MOST_DIRECT_BYTES
        if self.implementation == "blocked" or (large and training):
            return blocked_poca, {"memory_budget": self.memory_budget}
        options = {"block_outputs": self._block_outputs(features)}
        # Where sizes are unknown, this may be an export: those do without branches.
        if large and None not in features.shape:
            options["key_norms"] = poca.largest_norms(self._kernel(self.key_kernel))
        return poca.poca, options

    def _key_bytes(self, features):
        outputs, itemsize = self.num_groups * self.num_classes, tf.as_dtype(self._logits_dtype).size
        return memory_plan.tensor_bytes(*features.shape[:2], outputs, itemsize)

    def _block_outputs(self, features):
        """How many outputs the direct form makes at a time."""
        outputs = self.key_kernel.shape[-1]
        if self.implementation == "direct":
            return outputs
        itemsize = tf.as_dtype(self._logits_dtype).size
        return memory_plan.block_outputs(*features.shape[:2], outputs, itemsize)

    def _parts(self, features):
        """What keys and values of a map are made of: (B, L, Ck) and (B, L, Cv)."""
        self.check_built()
        features = tf.convert_to_tensor(features)
        check_features(self, features, self.channels)
        flat = flatten_positions(tf.cast(features, self.compute_dtype))
        if not self.split_key_value:
            return flat, flat
        sizes = key_value_channels(self.channels, self._split_ratio)
        return tf.split(flat, sizes, axis=-1)

    def _columns(self, weight, classes):
        """Those of some classes: a kernel (G, c, N/G, K), or a bias (N, K)."""
        if weight.shape.rank == 3:
            weight = tf.reshape(weight, (*weight.shape[:2], -1, self.num_classes))
        if classes is None:
            return weight
        return tf.gather(weight, class_indices(classes, self.num_classes), axis=-1)

    def _kernel(self, kernel):
        return tf.cast(kernel, self.compute_dtype)
