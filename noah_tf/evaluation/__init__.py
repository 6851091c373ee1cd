"""Evaluation: metrics on data sets, corrupted copies, the report, and two runs compared."""

from noah_tf.evaluation.evaluator import Evaluator, evaluate_run
from noah_tf.evaluation.metrics import binary_targets, example_losses, primary_metric
from noah_tf.evaluation.options import STRATEGIES, EvaluationOptions

__all__ = [
    "EvaluationOptions",
    "Evaluator",
    "STRATEGIES",
    "binary_targets",
    "evaluate_run",
    "example_losses",
    "primary_metric",
]
