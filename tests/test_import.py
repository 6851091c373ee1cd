"""Tests of `import noah_tf`: its errors, and the packages that it does not import."""

import pytest
import tensorflow as tf
from head_helpers import run_python
from shared_data import REPOSITORY

from noah_tf.utils.keras_compat import IS_KERAS_3, check_keras

HEAVY = ["keras_cv", "tensorflow_datasets", "tensorflow_addons", "matplotlib", "sklearn"]


def last_line(process):
    return process.stderr.strip().splitlines()[-1]


# A backend that is installed, one that is not installed, and one that does not exist.
@pytest.mark.parametrize(
    "backend",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("jax", "numpy")), "nonsense"],
)
def test_another_keras_backend_raises_one_sentence(backend):
    process = run_python("import noah_tf", KERAS_BACKEND=backend)
    if not IS_KERAS_3:  # Keras 2 has one backend and does not read the variable.
        assert process.returncode == 0, process.stderr
        return
    assert process.returncode == 1
    assert last_line(process).startswith("ImportError: noah_tf needs Keras to run on TensorFlow")
    assert repr(backend) in last_line(process)
    assert "KERAS_BACKEND=tensorflow" in last_line(process)


@pytest.mark.skipif(not IS_KERAS_3, reason="Keras 2 has one backend")
def test_another_backend_in_keras_json_raises(monkeypatch):
    monkeypatch.setattr(tf.keras.config, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="its backend is 'jax'"):
        check_keras()


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_legacy_keras_raises(value, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    with pytest.raises(ImportError, match=f"but TF_USE_LEGACY_KERAS={value} asks for"):
        check_keras()


def test_legacy_keras_raises_at_import():
    process = run_python("import noah_tf", TF_USE_LEGACY_KERAS="1")
    assert process.returncode == 1
    assert last_line(process).startswith("ImportError: noah_tf runs on TensorFlow's own Keras")


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_legacy_keras_set_to_false_is_accepted(value, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert check_keras() is None


def test_import_loads_no_heavy_packages_and_has_all_names():
    code = f"""
import sys, tensorflow as tf
tf.keras.layers
# Keras itself imports matplotlib and sklearn if they are installed.
before = set(sys.modules)
import noah_tf
print([name for name in {HEAVY} if name in set(sys.modules) - before])
print([name for name in noah_tf.__all__ if not hasattr(noah_tf, name)])
print("NOAHHead" in noah_tf.__all__)
"""
    process = run_python(code)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == ["[]", "[]", "True"]


def test_version_py_does_not_import_tensorflow():
    names = {}
    exec((REPOSITORY / "noah_tf" / "version.py").read_text(), names)
    assert names["__version__"].count(".") == 2
    assert "tf" not in names
