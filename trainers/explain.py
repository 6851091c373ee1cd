"""Draws the maps of a trained model over photos, or measures them.

python trainers/explain.py --workdir runs/noah --images 8
python trainers/explain.py --workdir runs/noah --compare_workdir runs/gap --arrays maps.npz
python trainers/explain.py --workdir runs/noah --classes 3,8 --per_group
python trainers/explain.py --workdir runs/noah --photos holiday/ --photos garden.jpg
python trainers/explain.py --workdir runs/noah --compare_workdir runs/gap \\
        --measure localization,faithfulness
"""

import command_line
from absl import flags

from noah_tf.explain import MapOptions, measures, run
from noah_tf.runs import WEIGHTS

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the training run.")
_COMPARE = flags.DEFINE_string("compare_workdir", None, "Folder of another run to compare with.")
_OUTPUT = flags.DEFINE_string("output", None, "PNG to write; default: WORKDIR/explain.png.")
_ARRAYS = flags.DEFINE_string("arrays", None, "An .npz file to write photos and maps to.")
_SPLIT = flags.DEFINE_string("split", None, "Split; default: the run's own.")
_PHOTOS = flags.DEFINE_multi_string(
    "photos", [], "Photo, or folder of photos, to draw instead of a split."
)
_IMAGES = flags.DEFINE_integer(
    "images", None, "Number of images; default: 6, or 256 for faithfulness.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed that selects the images.", lower_bound=0)
_WEIGHTS = flags.DEFINE_enum("weights", "last", WEIGHTS, "Weights of the run.")
_CLASSES = flags.DEFINE_list("classes", None, "Names or indices of the classes to draw.")
_MAPS = flags.DEFINE_list("maps", None, "Any of attention, contribution (NOAH), cam (pooled).")
_PER_GROUP = flags.DEFINE_bool("per_group", False, "Draw a map for each group of a NOAH head.")
_MEASURE = flags.DEFINE_list(
    "measure", None, "Measure instead of drawing: localization (needs boxes), faithfulness."
)


def main(_: list[str]) -> None:
    options = MapOptions(
        compare_workdir=_COMPARE.value,
        weights=_WEIGHTS.value,
        split=_SPLIT.value,
        methods=_MAPS.value,
        photos=_PHOTOS.value,
        seed=_SEED.value,
    )
    if _MEASURE.value and _PHOTOS.value:
        raise ValueError("--measure needs labels, which --photos do not have: leave one out.")
    if _MEASURE.value:
        results, path = measures.measure_run(
            _WORKDIR.value, _MEASURE.value, _IMAGES.value or 256, options=options
        )
        print(measures.measures_table(results))
        if "faithfulness" in _MEASURE.value:
            print(f"Wrote {measures.figure_path(path)}.")
    else:
        path = run.explain_run(
            _WORKDIR.value,
            _OUTPUT.value,
            _IMAGES.value or 6,
            _CLASSES.value,
            _PER_GROUP.value,
            _ARRAYS.value,
            options,
        )
    print(f"Wrote {path}.")


if __name__ == "__main__":
    command_line.run(main, required=["workdir"])
