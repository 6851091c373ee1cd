"""The paper's architectures as Keras models without a head, up to the last feature map.

There is one module per family. It has `VARIANTS`, the sizes of its architectures by name, and a
`build` function. Layers with weights have the names of the reference implementation's modules, so
a layer's name is also the name of its tensors in a checkpoint. See `noah_tf.models.official`.
"""
