"""What `import noah_tf` refuses, and what it leaves for later."""

import pytest
import tensorflow as tf
from head_helpers import run_python
from shared_data import REPOSITORY

from noah_tf.utils.keras_compat import check_keras

KERAS_3 = not tf.__version__.startswith("2.15.")
HEAVY = ["keras_cv", "tensorflow_datasets", "tensorflow_addons", "matplotlib", "sklearn"]


def last_line(process):
    return process.stderr.strip().splitlines()[-1]


# An installed backend, one that is not installed, and one that does not exist.
@pytest.mark.parametrize(
    "backend",
    ["jax", pytest.param("numpy", marks=pytest.mark.slow), "nonsense"],
)
def test_another_keras_backend_is_refused_in_one_sentence(backend):
    process = run_python("import noah_tf", KERAS_BACKEND=backend)
    if not KERAS_3:  # Keras 2 knows no other backend and does not read the variable.
        assert process.returncode == 0, process.stderr
        return
    assert process.returncode == 1
    assert last_line(process).startswith("ImportError: noah_tf needs Keras to run on TensorFlow")
    assert repr(backend) in last_line(process)
    assert "KERAS_BACKEND=tensorflow" in last_line(process)


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 has one backend")
def test_a_backend_that_keras_took_from_its_own_file_is_refused(monkeypatch):
    monkeypatch.setattr(tf.keras.config, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="its backend is 'jax'"):
        check_keras()


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_legacy_keras_is_refused_in_one_sentence(value, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    with pytest.raises(ImportError, match=f"but TF_USE_LEGACY_KERAS={value} asks for"):
        check_keras()


def test_legacy_keras_is_refused_at_import():
    process = run_python("import noah_tf", TF_USE_LEGACY_KERAS="1")
    assert process.returncode == 1
    assert last_line(process).startswith("ImportError: noah_tf runs on TensorFlow's own Keras")


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_legacy_keras_switched_off_is_accepted(value, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert check_keras() is None


def test_import_leaves_heavy_packages_for_later_and_offers_its_names():
    code = f"""
import sys, tensorflow as tf
tf.keras.layers
# Keras itself imports matplotlib and sklearn where it finds them.
before = set(sys.modules)
import noah_tf
print([name for name in {HEAVY} if name in set(sys.modules) - before])
print([name for name in noah_tf.__all__ if not hasattr(noah_tf, name)])
print("NOAHHead" in noah_tf.__all__)
"""
    process = run_python(code)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == ["[]", "[]", "True"]


def test_the_version_needs_no_tensorflow():
    names = {}
    exec((REPOSITORY / "noah_tf" / "version.py").read_text(), names)
    assert names["__version__"].count(".") == 2
    assert "tf" not in names
