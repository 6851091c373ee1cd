"""Draws where a trained model looked: photo, predicted class, true class. Or measures it.

python trainers/explain.py --workdir runs/noah --images 8
python trainers/explain.py --workdir runs/noah --compare_workdir runs/gap --arrays maps.npz
python trainers/explain.py --workdir runs/noah --classes 3,8 --per_group
python trainers/explain.py --workdir runs/noah --compare_workdir runs/gap \\
        --measure localization,faithfulness
"""

import command_line
from absl import flags

from noah_tf.explain import measures, run
from noah_tf.runs.checkpoint import WEIGHTS

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the training run.")
_COMPARE = flags.DEFINE_string("compare_workdir", None, "Folder of another, drawn beside it.")
_OUTPUT = flags.DEFINE_string("output", None, "PNG to write; by default WORKDIR/explain.png.")
_ARRAYS = flags.DEFINE_string("arrays", None, "An .npz file for the photos and their maps.")
_SPLIT = flags.DEFINE_string("split", None, "Split; by default the run's own.")
_IMAGES = flags.DEFINE_integer(
    "images", None, "How many images: 6, or 256 for deletion and insertion.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Which images: another seed draws others.", lower_bound=0)
_WEIGHTS = flags.DEFINE_enum("weights", "last", WEIGHTS, "Which weights of the run.")
_CLASSES = flags.DEFINE_list("classes", None, "Names or indices of the classes to draw.")
_MAPS = flags.DEFINE_list("maps", None, "Which: attention, contribution (NOAH), cam (pooled).")
_PER_GROUP = flags.DEFINE_bool("per_group", False, "A map for each group of a NOAH head.")
_MEASURE = flags.DEFINE_list(
    "measure", None, "Measures in place of drawing: localization (needs boxes), faithfulness."
)


def main(_):
    shared = {"split": _SPLIT.value, "weights": _WEIGHTS.value, "seed": _SEED.value}
    shared |= {"compare_workdir": _COMPARE.value, "methods": _MAPS.value}
    if _MEASURE.value:
        count = _IMAGES.value or 256
        result, path = measures.measure_run(_WORKDIR.value, _MEASURE.value, count=count, **shared)
        print(measures.measures_table(result))
        if "faithfulness" in _MEASURE.value:
            print(f"Wrote {measures.picture(path)}.")
    else:
        path = run.explain_run(
            _WORKDIR.value,
            _OUTPUT.value,
            count=_IMAGES.value or 6,
            classes=_CLASSES.value,
            per_group=_PER_GROUP.value,
            arrays=_ARRAYS.value,
            **shared,
        )
    print(f"Wrote {path}.")


if __name__ == "__main__":
    command_line.run(main, required=["workdir"])
