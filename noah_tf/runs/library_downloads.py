"""Explains why a library could not download the pretrained weights of a backbone."""

import os
import traceback


def download_problem(name: str, error: Exception) -> str | None:
    """Returns one sentence for an error that a library raised while it downloaded a file.

    The libraries raise exceptions of general classes, without the place where they keep the file.
    The arguments of the function that downloads, `get_file`, have the address and the place.

    Args:
        name: the full name of the backbone, for the sentence.
        error: what the library raised.

    Returns:
        A sentence with the address and the place, or None if the library was not downloading.

    Example:

    >>> try:
    ...     backbone = tf.keras.applications.MobileNetV2(weights="imagenet")
    ... except Exception as error:
    ...     print(download_problem("tf.keras.applications.MobileNetV2", error))
    """
    reason = " ".join(str(error).rpartition(" -- ")[2].split()).rstrip(".")[:300]
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_code.co_name != "get_file":
            continue
        arguments = frame.f_locals
        if {"origin", "datadir", "fname"} <= set(arguments):  # `tf.keras.utils.get_file`
            path = os.path.join(arguments["datadir"], arguments["fname"])
            return (
                f"The weights of {name} could not be downloaded from {arguments['origin']} "
                f"({reason}): download the file on a machine with a connection and save it as "
                f"{path}, where Keras looks for it."
            )
        if str(arguments.get("preset")).startswith("kaggle://"):  # KerasCV's
            return _kaggle_problem(name, arguments["preset"].removeprefix("kaggle://"), reason)
    return None


def _kaggle_problem(name: str, handle: str, reason: str) -> str:
    from kagglehub.config import get_cache_folder

    folder = os.path.join(get_cache_folder(), "models", *handle.split("/")[:2])
    return (
        f"{name} could not be downloaded from https://www.kaggle.com/models/{handle} ({reason}): "
        "build it once on a machine with a connection, and copy the folder models/"
        f"{'/'.join(handle.split('/')[:2])} of that machine's kagglehub cache to {folder}, where "
        "KerasCV looks for it."
    )
