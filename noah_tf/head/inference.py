"""NOAH heads as a server needs them: what does not change between requests is computed once."""

import contextlib

import tensorflow as tf

from noah_tf.head import poca
from noah_tf.head.layer import NOAHHead
from noah_tf.utils.keras_compat import raw_variable


class InferenceForm(tf.Module):
    """The weights of a model's NOAH heads, made ready for inference.

    Kernels are in the dtype that products run in, and value biases are summed over the groups. The
    key biases, which change nothing, are left out. A later change of the model's weights has no
    effect.

    Args:
        model: a Keras model whose heads have their weights.
        branches: whether graphs may choose at run time, see `poca.keys_are_small`. That is faster
            where TensorFlow runs them; other formats are better off without.

    Raises:
        ValueError: a head has no weights yet.

    Attributes:
        replaced: ids of the raw variables of the heads, which a graph made while the form is
            `used` does not need.

    Example:

    >>> form = noah_tf.InferenceForm(model)
    >>> with form.used():
    ...     logits = model(images, training=False)
    """

    def __init__(self, model, branches=True):
        super().__init__()
        layers = {id(layer): layer for layer in model._flatten_layers()}.values()
        heads = [layer for layer in layers if isinstance(layer, NOAHHead)]
        # Behind a function, so that tf.saved_model.save finds the weights, and no Keras layers.
        self._heads = lambda: heads
        self._forms = [_HeadForm(head, branches) for head in heads]
        self.replaced = {id(raw_variable(weight)) for head in heads for weight in head.weights}

    @contextlib.contextmanager
    def used(self):
        """While it lasts, the heads compute with these weights where `training` is not true.

        It is for all threads that call the model: trace what is to use the form, and then share
        what was traced.
        """
        before = [head.inference_form for head in self._heads()]
        for head, form in zip(self._heads(), self._forms, strict=True):
            head.inference_form = lambda form=form: form
        try:
            yield
        finally:
            for head, form in zip(self._heads(), before, strict=True):
                head.inference_form = form


class _HeadForm(tf.Module):
    def __init__(self, head, branches):
        super().__init__()
        head.check_built()
        self.key_norms = None
        if branches:
            norms = poca.largest_norms(raw_variable(head.key_kernel))
            self.key_norms = tf.Variable(norms, trainable=False, name="key_norms")
        for name in ("key_kernel", "value_kernel"):
            kernel = tf.cast(raw_variable(getattr(head, name)), head.compute_dtype)
            setattr(self, name, tf.Variable(kernel, trainable=False, name=name))
        bias = tf.cast(raw_variable(head.value_bias), poca.logits_dtype(head.compute_dtype))
        self.bias = tf.Variable(tf.reduce_sum(bias, axis=0), trainable=False, name="bias")

    def tensors(self):
        """What `poca.poca` takes: both kernels and the bias."""
        return [tf.convert_to_tensor(v) for v in (self.key_kernel, self.value_kernel, self.bias)]
