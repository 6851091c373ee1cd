"""Compares NOAH with pooling on a pretrained backbone and few photos.

    python benchmarks/efficientnet_lite0.py --output efficientnet_lite0.keras
    python benchmarks/finetuning.py --output finetuning --backbone efficientnet_lite0.keras \\
        --photos PHOTOS --data_dir TFDS_DIR                     # the whole study
    python benchmarks/finetuning.py --output finetuning ... --setting cifar10_20 --part probe
    python benchmarks/finetuning.py --output finetuning --tables --csv docs/study/finetuning.csv \\
        --page docs/study.md --page README.md --picture docs/finetuning.png

The backbone is EfficientNet-Lite0 with ImageNet weights. PHOTOS holds six kinds of trash
(TrashNet), 80 photos of each in train/CLASS/ and 30 in val/CLASS/. TFDS_DIR holds CIFAR-10 as TFDS
prepares it.

The study has three parts. A probe trains a head alone, on feature maps that are computed once. Each
seed draws its own training photos, and on trash also its own test photos. Before a head is trained,
it is trained with each of three learning rates on training photos and evaluated on other photos
that are not for testing; the best rate is used. "tried" probes other options of NOAH in the same
way. "full" trains the head in the same way and then all layers with each of two learning rates;
other photos that are not for testing choose one of the two.

After Ctrl+C or a power failure, the same command resumes the study. Another machine needs only the
CSV of the finished runs: `--known docs/study/finetuning.csv`.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import accuracy_runs
import finetuning_runs
import finetuning_tables
import study_command
from finetuning_settings import PARTS, SETTINGS, list_runs


def main() -> None:
    arguments = parse_arguments()
    output = arguments.output
    runs = list_runs(arguments.setting, arguments.part, arguments.seeds)
    data = finetuning_runs.Data(output, arguments.backbone, arguments.photos, arguments.data_dir)
    if arguments.worker:
        accuracy_runs.limit_threads(1)
        finetuning_runs.train_runs(runs, output, data)
        return
    if arguments.known:
        records = finetuning_tables.read_csv(arguments.known)
        num_added = finetuning_runs.import_records(records, output)
        print(f"Added the results of {num_added} runs from {arguments.known}.")
    if not arguments.tables:
        left = [run for run in runs if not finetuning_runs.is_done(output, run)]
        print(f"{len(runs)} runs, {len(runs) - len(left)} of them done.", flush=True)
        data.prepare(left)
        study_command.run_workers(arguments.processes if left else 0)
    records = finetuning_tables.read_records(output)
    tables = finetuning_tables.make_tables(records)
    study_command.write_results(
        records, finetuning_tables.COLUMNS, tables, arguments.csv, arguments.page
    )
    if arguments.picture:
        finetuning_tables.draw_curve(records, arguments.picture)
        print(f"Wrote {arguments.picture}.")


def parse_arguments() -> argparse.Namespace:
    """Returns the command line's arguments, with `setting` and `part` filled in."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    study_command.add_arguments(parser)
    add("--backbone", type=pathlib.Path, help="the file of efficientnet_lite0.py")
    add("--photos", type=pathlib.Path, help="folder with the photos of trash")
    add("--setting", choices=SETTINGS, action="append", help="default: all")
    add("--part", choices=PARTS, action="append", help="default: all")
    add("--seeds", type=int, help="the largest number of seeds per head; default: the study's")
    add("--processes", type=int, default=os.cpu_count() or 1, help="default: the cores")
    add("--picture", type=pathlib.Path, help="write the curve over the photos per class, a PNG")
    arguments = parser.parse_args()
    study_command.check_arguments(parser, arguments, ("seeds", "processes"))
    if not arguments.tables and (arguments.backbone is None or not arguments.backbone.is_file()):
        parser.error(
            "--backbone must be the file that efficientnet_lite0.py writes, got "
            f"{arguments.backbone}."
        )
    arguments.setting = arguments.setting or list(SETTINGS)
    arguments.part = arguments.part or list(PARTS)
    return arguments


if __name__ == "__main__":
    study_command.run(main)
