"""Refuses, in one sentence and at import, a Keras that the rest of the package cannot use."""

import os


def check_keras():
    """Checks that `tf.keras` is Keras 3 on TensorFlow, or the Keras 2 of TensorFlow 2.15.

    Raises:
        ImportError: Keras is missing, runs on another backend than TensorFlow, or
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
        # Keras 2 has no other backend, and does not read the variable.
        keras_2 = tf.__version__.startswith("2.15.")
        backend = "tensorflow" if keras_2 else tf.keras.config.backend()
    except (ImportError, ValueError) as error:
        # Also what a backend that is not installed, or that nobody knows, looks like from here.
        if backend == "tensorflow":
            raise ImportError(
                f"noah_tf needs TensorFlow and Keras, and importing them failed ({error}): "
                "reinstall them with pip install --force-reinstall tensorflow keras."
            ) from error
    if backend != "tensorflow":
        raise ImportError(
            f"noah_tf needs Keras to run on TensorFlow, but its backend is {backend!r}: set "
            "KERAS_BACKEND=tensorflow (or mend the backend in ~/.keras/keras.json)."
        )
