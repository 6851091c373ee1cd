"""The differences between Keras 3 and the Keras 2 of TensorFlow 2.15.

Importing this module raises ImportError if the package cannot use the installed Keras. No other
module of the package asks which Keras is running.
"""

import os
import random
from typing import Any


def check_keras() -> None:
    """Checks that `tf.keras` is Keras 3 on TensorFlow, or the Keras 2 of TensorFlow 2.15.

    Raises:
        ImportError: Keras is missing, Keras runs on a backend other than TensorFlow, or
            `TF_USE_LEGACY_KERAS` asks for the separate package tf_keras.
    """
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "")
    if legacy.lower() in ("1", "true"):
        raise ImportError(
            f"noah_tf runs on TensorFlow's own Keras, but TF_USE_LEGACY_KERAS={legacy} asks for "
            "the package tf_keras: unset the variable (for Keras 2, install TensorFlow 2.15 with "
            "pip install 'noah-tf[addons]')."
        )
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    try:
        import tensorflow as tf

        tf.keras.layers  # noqa: B018  TensorFlow loads Keras on first use.
        # Keras 2 has no other backend and does not read the variable.
        is_keras_2 = tf.__version__.startswith("2.15.")
        backend = "tensorflow" if is_keras_2 else tf.keras.config.backend()
    except (ImportError, ValueError) as error:
        # A backend that is unknown or not installed raises the same errors.
        if backend == "tensorflow":
            raise ImportError(
                f"noah_tf needs TensorFlow and Keras, and importing them failed ({error}): "
                "reinstall them with pip install --force-reinstall tensorflow keras."
            ) from error
    if backend != "tensorflow":
        raise ImportError(
            f"noah_tf needs Keras to run on TensorFlow, but its backend is {backend!r}: set "
            "KERAS_BACKEND=tensorflow (or correct the backend in ~/.keras/keras.json)."
        )


check_keras()

import tensorflow as tf  # noqa: E402

# TensorFlow 2.15 has no tf.keras.__version__.
IS_KERAS_3 = not tf.__version__.startswith("2.15.")
KERAS_NAME = "Keras 3" if IS_KERAS_3 else "Keras 2"

# The argument of `add_weight` that exempts a weight from the casts of a mixed precision policy.
NO_AUTOCAST = {"autocast" if IS_KERAS_3 else "experimental_autocast": False}


def raw_variable(weight: Any) -> tf.Variable:
    """Returns the `tf.Variable` behind a weight of either Keras, which reads without autocast."""
    return weight if isinstance(weight, tf.Variable) else weight.value


def weight_path(weight: Any) -> str:
    """Returns a weight's name after the names of its layers, such as "noah_head/key_kernel"."""
    # Keras 2 keeps the path in the name. Keras 3 keeps only the last part there.
    return getattr(weight, "path", None) or weight.name.split(":")[0]


def seed_layers(seed: int) -> None:
    """Seeds initial weights and dropout.

    Args:
        seed: the global seed of Python, NumPy and TensorFlow.
    """
    if not IS_KERAS_3:
        # By default, Keras 2 draws from the state of each op, which no checkpoint holds.
        tf.keras.backend.experimental.enable_tf_random_generator()
    tf.keras.utils.set_random_seed(seed)


def add_seed_stream(layer: tf.keras.layers.Layer, seed: int | None = None) -> None:
    """Gives a layer a stream of seeds whose state is part of the layer's checkpoints.

    Args:
        layer: a Keras layer.
        seed: the stream's seed. None derives it from Keras's global seed.
    """
    # Keras 2 has no SeedGenerator, and Keras 3 does not track a tf.random.Generator.
    if IS_KERAS_3:
        layer._seed_stream = tf.keras.random.SeedGenerator(seed)
        # TensorFlow's checkpoints find variables, but do not look into a SeedGenerator.
        layer._seed_state = layer._seed_stream.state.value
    else:
        if seed is None:
            seed = random.randrange(2**31)  # tf.keras.utils.set_random_seed seeds `random`.
        layer._seed_stream = tf.random.Generator.from_seed(seed)


def random_states(model: tf.keras.Model) -> list[Any]:
    """Returns the random states of Keras's own layers, which `tf.train.Checkpoint` does not find.

    Args:
        model: a Keras model.

    Returns:
        A list of variables (Keras 3) or `tf.random.Generator`s (Keras 2).
    """
    if IS_KERAS_3:
        weights = {id(weight) for weight in model.weights}
        return [variable.value for variable in model.variables if id(variable) not in weights]
    # Keras 2 hides a layer's generator behind another object and has no public access to it.
    holders = (getattr(layer, "_random_generator", None) for layer in model._flatten_layers())
    generators = (getattr(holder, "_generator", None) for holder in holders)
    return [generator for generator in generators if generator is not None]


def random_state_variables(model: tf.keras.Model) -> list[tf.Variable]:
    """Returns the variables of all random states of a model, those of the head included."""
    if IS_KERAS_3:
        return random_states(model)
    streams = (getattr(layer, "_seed_stream", None) for layer in model._flatten_layers())
    generators = [*random_states(model), *(stream for stream in streams if stream is not None)]
    return [generator.state for generator in generators]


def optimizer_classes(library: str) -> dict[str, type]:
    """Returns the optimizers of a library whose state is in variables.

    Args:
        library: "keras" or "tfa", TensorFlow Addons.

    Returns:
        {name of the class: class}.

    Raises:
        ValueError: the library does not run on this TensorFlow.
    """
    if library == "keras":
        module, base = tf.keras.optimizers, tf.keras.optimizers.Optimizer
    elif IS_KERAS_3:
        raise ValueError(
            "optimizer.name='tfa.*' needs TensorFlow Addons, which needs TensorFlow 2.15: install "
            "noah-tf[addons], or use an optimizer of Keras, such as keras.Lion."
        )
    else:
        import tensorflow_addons as tfa

        module, base = tfa.optimizers, tf.keras.optimizers.legacy.Optimizer
    classes = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }
    if not IS_KERAS_3:
        # Nadam of Keras 2 counts its steps in Python.
        classes.pop("Nadam", None)
    return classes


def build_optimizer(optimizer: Any, variables: list[Any]) -> list[tf.Variable]:
    """Creates the variables of a Keras optimizer, of TensorFlow Addons as well.

    Args:
        optimizer: a `tf.keras.optimizers.Optimizer`, or a legacy one of Keras 2.
        variables: the weights that it updates.

    Returns:
        Its variables.
    """
    if not IS_KERAS_3 and isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
        # The only way to create them before the first step.
        optimizer._create_all_weights(variables)
        return optimizer.variables()
    optimizer.build(variables)
    if IS_KERAS_3:
        return [variable.value for variable in optimizer.variables]
    # On several replicas, Keras 2 fails to compile a step with XLA.
    optimizer.jit_compile = False
    return list(optimizer.variables)


def apply_summed_gradients(optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
    """Makes a step of a Keras optimizer with gradients that are summed over the replicas.

    Call it in replica context.

    Args:
        optimizer: an optimizer of `build_optimizer`.
        gradients: a gradient for each weight, the same on all replicas.
        variables: the weights.
    """
    pairs = list(zip(gradients, variables, strict=True))
    if IS_KERAS_3:
        # Keras 3 always sums over the replicas.
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        gradients = [gradient / replicas for gradient in gradients] if replicas > 1 else gradients
        optimizer.apply(gradients, variables)
    elif isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    else:
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
