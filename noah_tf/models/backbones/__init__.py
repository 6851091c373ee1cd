"""The architectures that the paper trains, as bare Keras models that end in their last feature map.

One module a family. Each has `VARIANTS`, the sizes of its architectures by name, and a `build`
function. The layers that hold weights are named as the modules of the reference implementation,
so that a layer's name is the name of its tensors in a checkpoint; see `noah_tf.models.official`.
"""
