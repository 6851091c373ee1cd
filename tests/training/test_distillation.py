"""Knowledge distillation: the losses, the teacher's images, and runs with a teacher."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
from recipes import small_recipe
from stacks import slow_on_one_stack
from training_runs import train_and_kill, weights

import noah_tf
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.runs.checkpoint import load_run
from noah_tf.training.distillation import DistillationSettings, Teacher, load_teacher
from noah_tf.training.loop import train

SIZE = Preprocessing(image_size=32)


def softmax(logits):
    shares = np.exp(logits)
    return shares / shares.sum(-1, keepdims=True)


def teacher_of(binary=False, **settings):
    settings = DistillationSettings("teacher.keras", **settings)
    return Teacher(settings, None, SIZE, SIZE, "", binary)


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 3)), rng.normal(size=(4, 3))


def test_soft_loss_is_the_divergence_at_the_temperature(logits):
    teacher, student = logits
    p, q = softmax(teacher / 3), softmax(student / 3)
    got = teacher_of(distillation_temperature=3.0).losses(*map(tf.constant, np.float32(logits)))
    np.testing.assert_allclose(got, 9 * (p * np.log(p / q)).sum(-1), rtol=1e-4)
    got = teacher_of(True, distillation_temperature=3.0).losses(
        *map(tf.constant, np.float32(logits))
    )
    p, q = (1 / (1 + np.exp(-x / 3)) for x in (teacher, student))
    expected = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(got, 9 * expected.mean(-1), rtol=1e-4)


def test_hard_loss_is_the_cross_entropy_with_the_prediction(logits):
    teacher, student = logits
    got = teacher_of(distillation="hard").losses(*map(tf.constant, np.float32(logits)))
    expected = -np.log(softmax(student)[np.arange(4), teacher.argmax(-1)])
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    got = teacher_of(True, distillation="hard").losses(*map(tf.constant, np.float32(logits)))
    probabilities = 1 / (1 + np.exp(-student))
    expected = -np.log(np.where(teacher > 0, probabilities, 1 - probabilities)).mean(-1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_images_are_normalized_for_the_teacher():
    model = tf.keras.Sequential([tf.keras.Input((32, 32, 3)), tf.keras.layers.Flatten()])
    own = Preprocessing(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7))
    teacher = Teacher(DistillationSettings(), model, own, SIZE, "")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    expected = tf.reshape(own.normalize(pixels), (2, -1))
    np.testing.assert_allclose(teacher.logits(SIZE.normalize(pixels)), expected, atol=1e-5)


def save_keras_file(path, num_classes=2, activation=None, size=32):
    inputs = tf.keras.Input((size, size, 3))
    x = tf.keras.layers.Conv2D(8, 3, strides=2)(inputs)
    backbone = tf.keras.Model(inputs, x)
    noah_tf.attach_noah(backbone, num_classes, activation=activation).save(path)
    return str(path)


def load(**settings):
    return load_teacher(DistillationSettings(**settings), SIZE, num_classes=2, binary=False)


def test_teachers_in_files(tmp_path):
    path = save_keras_file(tmp_path / "teacher.keras")
    teacher = load(teacher=path, teacher_mean=(0.1, 0.2, 0.3))
    assert teacher.preprocessing == dataclasses.replace(SIZE, mean=(0.1, 0.2, 0.3))
    assert not teacher.model.trainable_weights and len(teacher.sha256) == 64
    assert load(teacher=path).sha256 == teacher.sha256
    model = noah_tf.create_model("mobilenetv2_035", num_classes=2, input_shape=(32, 32, 3))
    model.save_weights(tmp_path / "zoo.weights.h5")
    teacher = load(teacher=f"mobilenetv2_035:{tmp_path}/zoo.weights.h5")
    np.testing.assert_array_equal(teacher.model.weights[0], model.weights[0])


def test_teachers_that_do_not_fit_raise(tmp_path):
    path = save_keras_file(tmp_path / "three.keras", num_classes=3)
    with pytest.raises(
        ValueError,
        match="logits of the 2 classes of the data, got a model whose output has the sha",
    ):
        load(teacher=path)
    path = save_keras_file(tmp_path / "softmax.keras", activation="softmax")
    with pytest.raises(ValueError, match="returns logits, got .* the activation 'softmax'"):
        load(teacher=path)
    with pytest.raises(
        FileNotFoundError, match="'nothing': it is no trained run, no .keras file, and"
    ):
        load(teacher="nothing")
    with pytest.raises(ValueError, match="distillation must be one of soft, hard, got 'warm'; .*w"):
        DistillationSettings("run", distillation="warm", distillation_weight=0.0)
    with pytest.raises(ValueError, match="distillation_weight=0.7 needs train.teacher: name a tea"):
        DistillationSettings(distillation_weight=0.7)
    with pytest.raises(ValueError, match="for a teacher in a .keras file, got 'run', which has it"):
        DistillationSettings("run", teacher_mean=(0.5,))
    with pytest.raises(ValueError, match="colour://run has the scheme colour://, and Tens"):
        load(teacher="colour://run")


# test_resume.py has a teacher, too, and compares all bits.
@pytest.mark.exhaustive
def test_a_killed_run_with_a_teacher_ends_as_a_whole_one(
    shapes, tmp_path, finished_run, monkeypatch
):
    teacher = shutil.copytree(finished_run, tmp_path / "teacher")
    config = small_recipe(shapes)
    config.seed = 1
    config.train.teacher = str(teacher)
    config.model.dropout = 0.3
    config.augment.erasing = 0.5  # the pipeline normalizes the images
    train(config, tmp_path / "whole")
    train_and_kill(monkeypatch, 4, config, tmp_path / "killed")
    train(config, tmp_path / "killed")
    for one, other in zip(weights(tmp_path / "whole"), weights(tmp_path / "killed"), strict=True):
        np.testing.assert_array_equal(one, other)
    # The run does not depend on its teacher any more, but is not trained with another one.
    train_and_kill(monkeypatch, 4, config, tmp_path / "other")
    model = load_run(teacher).model
    model.weights[0].assign(model.weights[0] + 1)
    model.save_weights(str(teacher / "best.weights.h5"))
    with pytest.raises(ValueError, match="teacher_sha256"):
        train(config, tmp_path / "other")


@slow_on_one_stack
def test_teacher_of_other_classes_raises(shapes, tmp_path, finished_run):
    folder = shutil.copytree(shapes, tmp_path / "renamed")
    for split in ("train", "test"):
        (folder / split / "ring").rename(folder / split / "disc")
    config = small_recipe(folder)
    config.train.teacher = str(finished_run)
    with pytest.raises(
        ValueError, match="The teacher has 3 classes .*ring.* same classes in the s"
    ):
        train(config, tmp_path / "run")
