"""Does NOAH help? Both heads on small backbones, five seeds each, and what each part of it does.

    python benchmarks/accuracy.py --output study --data_dir TFDS_DIR      # all of it
    python benchmarks/accuracy.py --output study --setting digit_scenes   # one setting's heads
    python benchmarks/accuracy.py --output study --ablations              # parts of the head
    python benchmarks/accuracy.py --output study --data_dir TFDS_DIR --causes
    python benchmarks/accuracy.py --output study --tables --csv docs/study/runs.csv \\
        --page docs/study.md --page README.md

TFDS_DIR holds CIFAR-10 as TFDS prepares it; digit_scenes is made in TFDS's own folder. A run is a
recipe of `configs/` with the overrides in `accuracy_settings.py`, trained by
`noah_tf.training.loop.train` in OUTPUT/SETTING/heads/HEAD/seedN, which the other commands take as
--workdir. Both heads of a seed have the same backbone, data, order, augmentation, steps and
schedule. The test split is looked at after every epoch and nothing is chosen by it: the result is
that of the last step.

Two processes of one thread take less than one of two: 95 and 185 ms of processor time for a step
of the ResNet on CIFAR-10 and of that on digit_scenes, data included, in place of 105 and 195
(TensorFlow 2.21, two shared cores). So a process is started for each core. All of it takes about
two hours on two cores.

Stopped by Ctrl+C, by SIGTERM or by a power failure, the same command goes on. In the end it prints
the tables. On another machine it goes on from the CSV of what is done, without those networks:
`--known docs/study/runs.csv`.

The learning rate of each head is the best of those that `--search` tries, with a seed outside of
the study, on parts of the training data: a quarter of the steps on CIFAR-10, one of three epochs on
digit_scenes. The tables show all that was tried. With several digits the rates are those of one.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import accuracy_runs
import accuracy_settings
import accuracy_tables
import page_sections

from noah_tf.training.interrupt import Interrupted


def main():
    arguments = parsed_arguments()
    output = arguments.output
    runs = accuracy_settings.runs_of(
        arguments.setting, arguments.seeds, arguments.parts, arguments.search
    )
    if arguments.worker:
        accuracy_runs.use_threads(arguments.threads)
        accuracy_runs.train_all(runs, output, arguments.data_dir, arguments.quick)
        return
    if arguments.known:
        added = accuracy_runs.take_over(accuracy_tables.read_csv(arguments.known), output)
        print(f"{added} runs that were not there yet are known from {arguments.known}.")
    if not arguments.tables:
        accuracy_runs.prepare_data(runs, arguments.data_dir)
        print(accuracy_runs.plan(runs, output, arguments.processes), flush=True)
        work(arguments.processes)
        left = sum(not accuracy_runs.is_done(output, run) for run in runs)
        if left:
            raise SystemExit(f"{left} runs are left: the same command goes on.")
    found = accuracy_tables.records(output)
    tables = accuracy_tables.tables(found)
    print("\n" + ("\n\n".join(tables.values()) or "No run is done yet."))
    if arguments.csv:
        accuracy_tables.write_csv(found, arguments.csv)
        print(f"\nWrote {arguments.csv}: {len(found)} runs.")
    for page in arguments.page or ():
        print(f"Wrote {page}: {', '.join(page_sections.write_sections(page, tables))}.")


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--output", type=pathlib.Path, required=True, help="folder of the runs; resumes there")
    add("--data_dir", help="TFDS's folder with CIFAR-10; by default TFDS's own")
    add("--setting", choices=accuracy_settings.SETTINGS, action="append", help="by default all")
    add("--ablations", action="store_true", help="with their setting's heads, those alone")
    add("--causes", action="store_true", help="likewise, of the setting where NOAH does not win")
    add("--search", action="store_true", help="the learning rates that were tried, in their place")
    add("--seeds", type=int, default=5)
    add("--processes", type=int, help="trained at a time; by default one a core")
    add("--threads", type=int, default=1, help="of a process")
    add("--quick", action="store_true", help="a few steps a run, to see that it works")
    add("--tables", action="store_true", help="of what is done already; trains nothing")
    add("--known", type=pathlib.Path, help="file that --csv wrote, whose runs count as done")
    add("--csv", type=pathlib.Path, help="file to write all runs to")
    add("--page", type=pathlib.Path, action="append", help="Markdown with places for the tables")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in ("seeds", "processes", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}.")
    if arguments.tables and not arguments.known and not arguments.output.is_dir():
        parser.error(f"--output={arguments.output} is no folder, so there is nothing to show.")
    if arguments.processes is None:
        arguments.processes = max(1, (os.cpu_count() or 1) // arguments.threads)
    arguments.parts = [part for part in accuracy_settings.VARIANTS if getattr(arguments, part)]
    if not arguments.setting and not arguments.parts:
        arguments.setting = list(accuracy_settings.SETTINGS)
        arguments.parts = list(accuracy_settings.VARIANTS)
    # With the heads that they are compared with.
    compared = [accuracy_settings.VARIANTS[part].setting for part in arguments.parts]
    arguments.setting = list(dict.fromkeys([*(arguments.setting or []), *compared]))
    return arguments


def work(processes):
    """Trains in processes of their own, which share the runs out by locks in their folders."""
    command = [sys.executable, *sys.argv, "--worker"]
    # In sessions of their own: Ctrl+C then comes to them once, from here.
    workers = [subprocess.Popen(command, start_new_session=True) for _ in range(processes)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        failed = [worker for worker in workers if worker.wait()]
    except BaseException:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        raise
    if failed:
        raise SystemExit("A process ended early, see above: the same command goes on.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Interrupted as interruption:
        print(interruption, flush=True)
        sys.exit(128 + (interruption.signum or signal.SIGTERM))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(str(error))
