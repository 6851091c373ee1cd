"""The comparison of two heads with the same budget."""

import json

import pytest
from recipes import small_recipe
from stacks import slow_on_one_stack

from noah_tf.training import head_search

pytestmark = pytest.mark.one_stack


@slow_on_one_stack
def test_best_rate_on_validation_is_trained_and_tested_once(shapes, tmp_path):
    config = small_recipe(shapes)
    config.train.epochs, config.data.train_split = 1, "train[:70%]"
    outcome = head_search.compare_heads(
        config, tmp_path, [1e-3, 1e-2], 1, select_split="train[70%:]"
    )
    for head in ("gap", "noah"):
        row = outcome[head]
        assert row["trials"][row["learning_rate"]] == max(row["trials"].values())
        run = json.loads((tmp_path / head / "config.json").read_text())
        assert run["model"]["head"] == head and run["data"]["eval_split"] == "train[70%:]"
        assert run["optimizer"]["learning_rate"] == row["learning_rate"]
        assert row["result"]["examples"] == 10  # the test split's
        assert (tmp_path / head / "eval_test.json").exists()
    table = head_search.comparison_table(outcome)
    assert "gap" in table and f"{outcome['noah']['result']['top1']:.2%}" in table


@slow_on_one_stack
def test_rate_that_diverges_is_skipped(shapes, tmp_path):
    config = small_recipe(shapes)
    config.optimizer.name, config.train.epochs = "sgd", 1
    outcome = head_search.compare_heads(
        config, tmp_path / "some", [1e30, 1e-3], 1, select_split="test", heads=("gap",)
    )
    assert list(outcome["gap"]["trials"]) == [1e-3]
    with pytest.raises(FloatingPointError, match="gap diverges with every learning rate"):
        head_search.compare_heads(
            config, tmp_path / "none", [1e30], 1, select_split="test", heads=("gap",)
        )
