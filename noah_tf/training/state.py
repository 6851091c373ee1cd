"""The state that training changes: the model, its optimizer, its moving average."""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from noah_tf.runs import MovingAverage, SavedBackbone
from noah_tf.training.batch_norm import normalize_in_groups, normalize_over_replicas
from noah_tf.training.distillation import Teacher, load_teacher
from noah_tf.training.optimizer import Optimizer
from noah_tf.training.optimizer_settings import make_optimizer
from noah_tf.training.param_groups import LayerStart, layer_starts
from noah_tf.training.plan import TrainingPlan
from noah_tf.training.remat import rematerialized
from noah_tf.utils import distribute
from noah_tf.utils.keras_compat import raw_variable, seed_layers


@dataclasses.dataclass
class TrainState:
    """The objects whose variables a train step updates.

    Attributes:
        model: the Keras model.
        optimizer: the `Optimizer` of the model's trainable variables.
        average: the `MovingAverage`, or None.
        teacher: the `Teacher` of a distillation, or None; it does not change.
        forward: the training pass of the model, a function of images and `training`; None for the
            model itself.
        layer_starts: the layers that are frozen at first, and when each is trained.
        variables: the weights that the optimizer has, in its order.
        statistics: the float weights that are not trained, which are those of BatchNorm.
    """

    model: tf.keras.Model
    optimizer: Optimizer
    average: MovingAverage | None = None
    teacher: Teacher | None = None
    layer_starts: Sequence[LayerStart] = ()
    forward: Callable | None = None
    variables: list = dataclasses.field(init=False)
    statistics: list = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.variables = self.model.trainable_variables
        weights = [raw_variable(weight) for weight in self.model.non_trainable_weights]
        self.statistics = [weight for weight in weights if weight.dtype.is_floating]
        distribute.read_first_replica(self.statistics)

    def freeze_until_start(self, step: int) -> tuple[int, ...]:
        """Freezes the layers whose start is yet to come, and unfreezes the others.

        The optimizer's `start_steps` decide which weights are trained. `layer.trainable` follows
        them, so that the BatchNorm of frozen layers works as in evaluation.

        Args:
            step: the next step of the run.

        Returns:
            The indices of the `variables` that are trained at this step.
        """
        for layer, start in self.layer_starts:
            layer.trainable = start <= step
        return self.optimizer.trained_indices(step)


def build_state(
    plan: TrainingPlan,
    num_classes: int,
    steps_per_epoch: int,
    saved_backbone: SavedBackbone | None = None,
    multi_label: bool = False,
) -> TrainState:
    """Returns the state that a run starts from, with random weights by the recipe's seed.

    A backbone that is read from a file has the file's weights.

    Args:
        plan: the plan of the run.
        num_classes: number of classes M of the data.
        steps_per_epoch: steps of one epoch.
        saved_backbone: what a resumed run kept of its backbone's file, or None.
        multi_label: whether an example can have several classes.

    Raises:
        ValueError: a part of the recipe does not fit the model.
    """
    seed_layers(plan.seed)
    frozen_steps = plan.train.frozen_epochs * steps_per_epoch
    with distribute.dtype_policy(plan.precision), plan.strategy.scope():
        model = plan.model.build(plan.preprocessing.input_shape, num_classes, saved_backbone)
        if plan.num_batch_norm_groups > 1:
            normalize_in_groups(model, plan.num_batch_norm_groups)
        if plan.model.synchronized_batch_norm:
            normalize_over_replicas(model)
        starts = layer_starts(model, frozen_steps, plan.train.frozen_layers)
        optimizer = make_optimizer(
            plan.optimizer,
            plan.schedule.for_steps(steps_per_epoch),
            model,
            starts,
            loss_scale=plan.precision == "mixed_float16",
        )
        average = MovingAverage(model, plan.ema_decay) if plan.ema_decay else None
        forward = rematerialized(model) if plan.model.remat else None
    with plan.strategy.scope():
        binary = plan.loss.is_binary(multi_label)
        teacher = load_teacher(plan.distillation, plan.preprocessing, num_classes, binary)
    return TrainState(model, optimizer, average, teacher, starts, forward)
