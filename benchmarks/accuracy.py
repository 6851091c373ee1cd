"""Compares NOAH with pooling on small backbones, five seeds each, and ablates the head.

    python benchmarks/accuracy.py --output study --data_dir TFDS_DIR      # the whole study
    python benchmarks/accuracy.py --output study --setting digit_scenes   # both heads, one setting
    python benchmarks/accuracy.py --output study --ablations              # options of the head
    python benchmarks/accuracy.py --output study --data_dir TFDS_DIR --causes
    python benchmarks/accuracy.py --output study --tables --csv docs/study/runs.csv \\
        --page docs/study.md --page README.md

TFDS_DIR holds CIFAR-10 as TFDS prepares it. The data set digit_scenes is generated in TFDS's
default folder. Each run is a recipe of `configs/` with the overrides in `accuracy_settings.py`. It
is trained by `noah_tf.training.loop.train` in OUTPUT/SETTING/heads/HEAD/seedN, which the other
command lines take as --workdir. Both heads of a seed have the same backbone, data, order,
augmentation, steps and schedule. The test split is evaluated after every epoch, but nothing is
chosen by it: the result is that of the last step.

The learning rate of each head is the best one of the search (`--search`). The search uses another
seed than the study and parts of the training data: a quarter of the steps on CIFAR-10, one of
three epochs on digit_scenes. The tables show every rate that was tried. The setting with several
digits uses the rates of the one with a single digit.

The whole study takes about two hours on two cores. One process with one thread runs on each core,
because that takes less CPU time than one process with two threads: 95 instead of 105 ms for a step
of the ResNet on CIFAR-10, and 185 instead of 195 ms on digit_scenes, data included (TensorFlow
2.21, two shared cores).

After Ctrl+C, SIGTERM or a power failure, the same command resumes the study. At the end it prints
the tables. Another machine needs only the CSV of the finished runs to resume:
`--known docs/study/runs.csv`.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import accuracy_runs
import accuracy_settings
import accuracy_tables
import study_command


def main() -> None:
    arguments = parse_arguments()
    output = arguments.output
    runs = accuracy_settings.list_runs(
        arguments.setting, arguments.seeds, arguments.parts, arguments.search
    )
    if arguments.worker:
        accuracy_runs.limit_threads(arguments.threads)
        accuracy_runs.train_runs(runs, output, arguments.data_dir, arguments.quick)
        return
    if arguments.known:
        num_added = accuracy_runs.import_records(accuracy_tables.read_csv(arguments.known), output)
        print(f"Added the results of {num_added} runs from {arguments.known}.")
    if not arguments.tables:
        accuracy_runs.prepare_data(runs, arguments.data_dir)
        print(accuracy_runs.describe_plan(runs, output, arguments.processes), flush=True)
        study_command.run_workers(arguments.processes)
        left = sum(not accuracy_runs.is_done(output, run) for run in runs)
        if left:
            raise SystemExit(f"{left} runs are left. The same command resumes the study.")
    records = accuracy_tables.read_records(output)
    tables = accuracy_tables.make_tables(records)
    study_command.write_results(
        records, accuracy_tables.COLUMNS, tables, arguments.csv, arguments.page
    )


def parse_arguments() -> argparse.Namespace:
    """Returns the command line's arguments, with `setting` and `parts` filled in."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    study_command.add_arguments(parser)
    add("--setting", choices=accuracy_settings.SETTINGS, action="append", help="default: all")
    add("--ablations", action="store_true", help="train the ablations and their setting's heads")
    add("--causes", action="store_true", help="likewise, where NOAH is worse than pooling")
    add("--starts", action="store_true", help="likewise, with kernels that start at zero")
    add("--search", action="store_true", help="search the learning rates instead")
    add("--seeds", type=int, default=5, help="seeds per head; default: 5")
    add("--processes", type=int, help="processes that train at the same time; default: the cores")
    add("--threads", type=int, default=1, help="threads per process; default: 1")
    add("--quick", action="store_true", help="train only a few steps per run, as a test")
    arguments = parser.parse_args()
    study_command.check_arguments(parser, arguments, ("seeds", "processes", "threads"))
    if arguments.processes is None:
        arguments.processes = max(1, (os.cpu_count() or 1) // arguments.threads)
    arguments.parts = [part for part in accuracy_settings.VARIANTS if getattr(arguments, part)]
    if not arguments.setting and not arguments.parts:
        arguments.setting = list(accuracy_settings.SETTINGS)
        arguments.parts = list(accuracy_settings.VARIANTS)
    # Variants are compared with the heads of their setting.
    baselines = [accuracy_settings.VARIANTS[part].setting for part in arguments.parts]
    arguments.setting = list(dict.fromkeys([*(arguments.setting or []), *baselines]))
    return arguments


if __name__ == "__main__":
    study_command.run(main)
