"""Trains both heads on handwritten digits, compares, explains, exports and predicts.

This takes about five minutes on a laptop's CPU.

    python trainers/demo.py --workdir runs/demo
"""

import json

import command_line
import tensorflow as tf
from absl import flags
from ml_collections import config_flags

from noah_tf.datasets import source_from_config
from noah_tf.explain import MapOptions, run
from noah_tf.export import export_run
from noah_tf.training import head_search
from noah_tf.utils.files import write_text_atomically
from noah_tf.utils.paths import as_path

_CONFIG = config_flags.DEFINE_config_file("config", "configs/quickstart.py", "The recipe.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Folder of the runs, which resumes them.")
_LEARNING_RATES = flags.DEFINE_list("learning_rates", ["3e-3", "1e-2", "3e-2"], "Rates to try.")
_SEARCH_EPOCHS = flags.DEFINE_integer("search_epochs", 1, "Epochs of a trial.", lower_bound=1)


def main(_: list[str]) -> None:
    config, workdir = _CONFIG.value, as_path(_WORKDIR.value)
    rates = [float(rate) for rate in _LEARNING_RATES.value]
    outcome = head_search.compare_heads(config, workdir, rates, _SEARCH_EPOCHS.value)
    write_text_atomically(workdir / "comparison.json", json.dumps(outcome, indent=2) + "\n")

    picture = run.explain_run(
        workdir / "noah",
        workdir / "explain.png",
        options=MapOptions(compare_workdir=workdir / "gap"),
    )
    exported = export_run(workdir / "noah", "saved_models/digits")

    source = source_from_config(config.data, config.data.eval_split)
    example = next(iter(source.examples(shuffle_seed=0)))
    serve = tf.saved_model.load(str(exported)).signatures["serving_default"]
    outputs = serve(image_bytes=example["image"][None])
    predicted = outputs["labels"][0, 0].numpy().decode()
    probability = float(outputs["probabilities"][0, 0])

    print(f"\nOn {source.name} {source.split}, {source.num_examples} examples:")
    print(head_search.comparison_table(outcome))
    print(f"Where both looked: {picture}")
    print(
        f"Exported {exported}; from a PNG's bytes it predicts {predicted} "
        f"({probability:.1%}), the truth is {' and '.join(source.label_names(example['label']))}."
    )


if __name__ == "__main__":
    command_line.run(main)
