"""Evaluation: metrics on data sets, corrupted copies, the report, and two runs compared."""

from noah_tf.evaluation.answers import AnswerOptions, answer_rows, write_answers
from noah_tf.evaluation.evaluator import Evaluator, evaluate_run
from noah_tf.evaluation.metrics import binary_targets, example_losses, primary_metric
from noah_tf.evaluation.options import STRATEGIES, EvaluationOptions
from noah_tf.evaluation.prediction import ExportPredictor, KerasPredictor, Prediction

__all__ = [
    "AnswerOptions",
    "EvaluationOptions",
    "Evaluator",
    "ExportPredictor",
    "KerasPredictor",
    "Prediction",
    "STRATEGIES",
    "answer_rows",
    "binary_targets",
    "evaluate_run",
    "example_losses",
    "primary_metric",
    "write_answers",
]
