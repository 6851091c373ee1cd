"""The two studies, `accuracy.py` and `finetuning.py`, share these parts of a command line."""

import argparse
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

import page_sections
import records_csv
from records_csv import Columns, Record

from noah_tf.training.interrupt import Interrupted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say where runs, data and results are."""
    add = parser.add_argument
    add("--output", type=pathlib.Path, required=True, help="folder of the runs; resumes there")
    add("--data_dir", help="TFDS's folder with CIFAR-10; default: TFDS's own")
    add("--tables", action="store_true", help="only print the tables of the finished runs")
    add("--known", type=pathlib.Path, help="a file written by --csv, whose runs count as done")
    add("--csv", type=pathlib.Path, help="write all finished runs to this file")
    add("--page", type=pathlib.Path, action="append", help="write the tables to this Markdown page")
    add("--worker", action="store_true", help=argparse.SUPPRESS)


def check_arguments(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, counts: Iterable[str]
) -> None:
    """Exits with a message if an argument is out of its range.

    Args:
        parser: the parser.
        arguments: its result.
        counts: names of arguments that must be at least 1 if they are given.
    """
    for name in counts:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}.")
    if arguments.tables and not arguments.known and not arguments.output.is_dir():
        parser.error(f"--output must be the folder of a study, got {arguments.output}.")


def run_workers(num_processes: int) -> None:
    """Trains in worker processes, which share the runs through locks in the runs' folders."""
    command = [sys.executable, *sys.argv, "--worker"]
    # Each worker has a session of its own, so that Ctrl+C reaches it once: from this process.
    workers = [subprocess.Popen(command, start_new_session=True) for _ in range(num_processes)]
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
        raise SystemExit("A worker failed, see above. The same command resumes the study.")


def write_results(
    records: Sequence[Record],
    columns: Columns,
    tables: Mapping[str, str],
    csv: pathlib.Path | None,
    pages: Iterable[pathlib.Path] | None,
) -> None:
    """Prints the tables, and writes them to pages and the records to a CSV file.

    Args:
        records: the records of the finished runs.
        columns: the columns of the CSV file.
        tables: name → Markdown.
        csv: the CSV file, or None.
        pages: Markdown pages, or None.
    """
    print("\n" + ("\n\n".join(tables.values()) or "No run is done yet."))
    if csv:
        records_csv.write_csv(records, csv, columns)
        print(f"\nWrote {csv}: {len(records)} runs.")
    for page in pages or ():
        print(f"Wrote {page}: {', '.join(page_sections.write_sections(page, tables))}.")


def run(main: Callable[[], None]) -> None:
    """Runs a command line, and exits with a message or code after an error or a signal."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Interrupted as interruption:
        print(interruption, flush=True)
        sys.exit(128 + (interruption.signum or signal.SIGTERM))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(str(error))
