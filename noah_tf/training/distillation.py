"""Knowledge distillation: a trained model, the teacher, helps to train another one."""

import dataclasses
import hashlib

import tensorflow as tf

from noah_tf.images import Preprocessing
from noah_tf.models import (
    create_model,
    final_activation,
    list_models,
    load_keras_file,
    preprocessing_for,
    with_input_shape,
)
from noah_tf.runs import Workdir, is_keras_file, load_run
from noah_tf.training.settings import raise_joined
from noah_tf.utils.distribute import dtype_policy
from noah_tf.utils.validation import is_number

KINDS = ("soft", "hard")


@dataclasses.dataclass(frozen=True)
class DistillationSettings:
    """What a run learns from a teacher, from the `train` section of a recipe.

    Attributes:
        teacher: the folder of a run, whose best weights are taken; a Keras model that returns
            logits, in a `.keras` file; or a model of `create_model` and its weights with a colon
            between them, such as "resnet50:resnet50.pth". None for no teacher.
        distillation: "soft" learns the teacher's probabilities, "hard" the class that it predicts.
        distillation_weight: share of the teacher in the loss, in (0, 1].
        distillation_temperature: what the logits are divided by in a soft distillation, above 0.
        teacher_mean: like `Preprocessing.mean`, for a teacher in a `.keras` file. None for the mean
            of the recipe.
        teacher_std: likewise.

    Raises:
        ValueError: values are out of range; the message names all of them.

    Source: Hinton et al. (arXiv 1503.02531), section 2; hard: DeiT (arXiv 2012.12877), section 4.
    """

    teacher: str | None = None
    distillation: str = "soft"
    distillation_weight: float = 0.5
    distillation_temperature: float = 2.0
    teacher_mean: tuple | None = None
    teacher_std: tuple | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.distillation not in KINDS:
            problems.append(
                f"train.distillation must be one of {', '.join(KINDS)}, got {self.distillation!r}"
            )
        if self.teacher is None:
            fields = dataclasses.fields(self)
            unused = [f.name for f in fields if getattr(self, f.name) != f.default]
            problems += [
                f"train.{name}={getattr(self, name)!r} needs train.teacher: name a teacher, or "
                "leave it out"
                for name in unused
            ]
        elif not is_keras_file(self.teacher) and (self.teacher_mean or self.teacher_std):
            problems.append(
                f"train.teacher_mean={self.teacher_mean} and train.teacher_std={self.teacher_std} "
                f"are for a teacher in a .keras file, got {self.teacher!r}, which has its own"
            )
        weight, temperature = self.distillation_weight, self.distillation_temperature
        if not is_number(weight) or not 0 < weight <= 1:
            problems.append(f"train.distillation_weight must be in (0, 1], got {weight!r}")
        if not is_number(temperature) or not 0 < temperature < float("inf"):
            problems.append(f"train.distillation_temperature must be above 0, got {temperature!r}")
        raise_joined(problems)


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A trained model and the images that it takes.

    Attributes:
        settings: what is learned from it.
        model: a Keras model, images to logits.
        preprocessing: how its images are normalized.
        student: the preprocessing of the model that is trained.
        sha256: the SHA-256 of its weights.
        binary: whether each class has its own probability, as for multi-label data.
        class_names: the names of its classes, if they are known.
    """

    settings: DistillationSettings
    model: tf.keras.Model
    preprocessing: Preprocessing
    student: Preprocessing
    sha256: str
    binary: bool = False
    class_names: tuple[str, ...] | None = None

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the teacher's logits (B, M) in float32, without a gradient.

        Args:
            images: the images of a training batch, normalized for the student.
        """
        images = images * tf.constant(self.student.std) + tf.constant(self.student.mean)
        images = (images - self.preprocessing.mean) / tf.constant(self.preprocessing.std)
        return tf.stop_gradient(tf.cast(self.model(images, training=False), tf.float32))

    def losses(self, teacher_logits: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Returns the loss (B,) of the student against the teacher.

        Soft: the cross-entropy of the probabilities of both at the temperature T, less the
        teacher's entropy, times T², so that its gradient is as large as that of the labels. Hard:
        the cross-entropy with the predicted class. If the classes have their own probabilities, the
        loss is the mean over the classes.

        Args:
            teacher_logits: (B, M).
            logits: the student's logits, (B, M).
        """
        logits = tf.cast(logits, tf.float32)
        if self.settings.distillation == "hard":
            if self.binary:
                targets = tf.cast(teacher_logits > 0, tf.float32)
                losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
                return tf.reduce_mean(losses, axis=-1)
            targets = tf.argmax(teacher_logits, axis=-1)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        temperature = self.settings.distillation_temperature
        soft_teacher, soft = teacher_logits / temperature, logits / temperature
        if self.binary:
            losses = _binary_divergence(soft_teacher, soft)
        else:
            log_teacher, log_student = tf.nn.log_softmax(soft_teacher), tf.nn.log_softmax(soft)
            losses = tf.reduce_sum(tf.exp(log_teacher) * (log_teacher - log_student), axis=-1)
        return temperature**2 * losses


def load_teacher(
    settings: DistillationSettings, student: Preprocessing, num_classes: int, binary: bool
) -> Teacher | None:
    """Loads the teacher of a run. Call it under the run's strategy.

    Args:
        settings: the `train` section of the recipe.
        student: the preprocessing of the model that is trained.
        num_classes: number of classes M.
        binary: see `Teacher`.

    Returns:
        The teacher, or None if the recipe names none.

    Raises:
        ValueError: the teacher does not fit the run, or cannot be loaded.
        FileNotFoundError: it does not exist.
    """
    if settings.teacher is None:
        return None
    try:
        model, preprocessing, class_names = _open(settings, student, num_classes)
        _check_fits(model, preprocessing, student, num_classes)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"train.teacher={settings.teacher!r}: {error}") from error
    model.trainable = False
    return Teacher(settings, model, preprocessing, student, _sha256(model), binary, class_names)


def _open(
    settings: DistillationSettings, student: Preprocessing, num_classes: int
) -> tuple[tf.keras.Model, Preprocessing, tuple[str, ...] | None]:
    """Returns the teacher's model, its preprocessing, and the names of its classes if known."""
    class_names = None
    teacher = str(settings.teacher)
    name, colon, weights = teacher.partition(":")
    if is_keras_file(teacher):
        mean, std = settings.teacher_mean or student.mean, settings.teacher_std or student.std
        preprocessing = dataclasses.replace(student, mean=tuple(mean), std=tuple(std))
        model = with_input_shape(load_keras_file(teacher), preprocessing.input_shape)
    elif colon and name in list_models():
        preprocessing = preprocessing_for(name, student.image_size)
        with dtype_policy("float32"):
            model = create_model(
                name, num_classes, input_shape=preprocessing.input_shape, weights=weights
            )
    elif Workdir(teacher).has_progress():
        run = load_run(teacher, "best")
        model, preprocessing, class_names = run.model, run.preprocessing, run.class_names
    else:
        raise FileNotFoundError(
            "it is no trained run, no .keras file, and no model with weights such as "
            "resnet50:resnet50.pth."
        )
    return model, preprocessing, class_names


def _check_fits(
    model: tf.keras.Model, preprocessing: Preprocessing, student: Preprocessing, num_classes: int
) -> None:
    activation = final_activation(model)
    if activation is not None:
        raise ValueError(
            f"a teacher returns logits, got a model that ends in the activation {activation!r}."
        )
    if tuple(model.output_shape[1:]) != (num_classes,):
        raise ValueError(
            f"a teacher returns logits of the {num_classes} classes of the data, got a model whose "
            f"output has the shape {model.output_shape}."
        )
    if preprocessing.input_shape != student.input_shape:
        raise ValueError(
            f"the teacher takes images of the shape {preprocessing.input_shape}, and the run "
            f"trains on {student.input_shape}: choose preprocess.image_size and the channels of "
            "preprocess.mean like the teacher's."
        )


def _binary_divergence(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """Returns the mean over the classes of KL(teacher || student) of their sigmoids, (B,)."""
    divergence = 0.0
    for sign in (1, -1):
        log_teacher = tf.math.log_sigmoid(sign * teacher)
        difference = log_teacher - tf.math.log_sigmoid(sign * student)
        divergence += tf.exp(log_teacher) * difference
    return tf.reduce_mean(divergence, axis=-1)


def _sha256(model: tf.keras.Model) -> str:
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(tf.convert_to_tensor(weight).numpy().tobytes())
    return digest.hexdigest()
