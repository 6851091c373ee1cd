"""How long a run trains, and when a run that has ended may go on."""

from collections.abc import Mapping
from typing import Any

from noah_tf.runs import Workdir
from noah_tf.training.plan import TrainingPlan


def changed_length(plan: TrainingPlan, workdir: Workdir) -> tuple[str, ...]:
    """Returns the keys of a recipe that may differ from those of the run in a folder.

    A run may have more epochs than at its beginning if its learning rates stay the same, and
    another patience.

    Args:
        plan: the plan of the run.
        workdir: the folder of the run.

    Raises:
        ValueError: the number of epochs differs and must not.
    """
    if not workdir.has_progress():
        return ()
    epochs, before = plan.train.epochs, workdir.config().train.epochs
    if epochs != before and plan.schedule.depends_on_epochs:
        raise ValueError(
            f"{workdir.path} was begun with train.epochs={before}, got {epochs}, and the learning "
            f"rates of schedule.name={plan.schedule.name!r} depend on the number of epochs: to "
            "train its weights further, start another run with another --workdir and "
            f"--config.model.weights={workdir.path}."
        )
    if epochs < before:
        raise ValueError(
            f"{workdir.path} was begun with train.epochs={before}, got {epochs}: a run can only "
            "get more epochs."
        )
    return ("train.epochs", "train.patience")


def is_complete(plan: TrainingPlan, result: Mapping[str, Any], num_examples: int) -> bool:
    """Returns whether a run that has ended has nothing left to do.

    Args:
        plan: the plan of the run, whose recipe may have more epochs or patience than the run had.
        result: the result of the run.
        num_examples: number of training examples.
    """
    if result["steps"] >= plan.train.epochs * plan.steps_per_epoch(num_examples):
        return True
    if result.get("stopped_before_epochs", 0) >= plan.train.epochs:
        return True
    # Runs of earlier versions have no patience.
    return plan.train.is_out_of_patience(result.get("epochs_since_best", 0))
