import pathlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import parse_number, write_records

from noah_tf.datasets.records import host_files, read_records
from noah_tf.datasets.source import host_range

pytestmark = pytest.mark.one_stack


def indices_in(ranges):
    """Returns the indices of all records in some ranges of files."""
    indices = [np.arange(file.start, file.start + file.take) for file in ranges]
    return np.concatenate(indices).tolist() if indices else []


def numbers(files, **options):
    options = {"shuffle_seed": 1, **options}
    return [int(example["label"]) for example in read_records(files, parse_number, **options)]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 9), st.integers(0, 99))
def test_hosts_share_the_records(sizes, count, seed):
    files = [(str(number), 3, size) for number, size in enumerate(sizes)]
    hosts = [host_files(files, seed, (index, count)) for index in range(count)]
    shares = [indices_in(ranges) for ranges in hosts]
    assert {len(share) for share in shares} == {sum(sizes) // count}, "of the same size"
    union = set().union(*shares)
    assert len(union) == sum(map(len, shares)) == sum(sizes) // count * count, "disjoint"
    # Hosts share no files except those at the ends of their ranges.
    opened = [{file.path for file in ranges} for ranges in hosts]
    assert sum(map(len, opened)) <= len(files) + count - 1
    for ranges in hosts:
        for path, skip, take, start in ranges:
            first = sum(sizes[: int(path)])
            assert 3 <= skip <= skip + take <= 3 + sizes[int(path)] and start == first + skip - 3


@given(st.integers(0, 1000), st.integers(1, 20))
def test_uneven_ranges_cover_everything(size, count):
    ranges = [host_range(size, (index, count), even=False) for index in range(count)]
    assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
    assert ranges[-1][1] == size
    assert max(stop - start for start, stop in ranges) == -(-size // count)


def test_natural_order(tmp_path):
    files = write_records(tmp_path, [5, 1, 7])
    assert numbers(files, shuffle_seed=None) == list(range(13))
    shares = [numbers(files, shuffle_seed=None, shard=(index, 3)) for index in range(3)]
    assert sum(shares, []) == list(range(13))
    assert [(path, 1, take - 1) for path, _, take in files[2:]] == [(files[2][0], 1, 6)]
    assert numbers([(files[2][0], 1, 6)], shuffle_seed=None) == list(range(7, 13))


@pytest.mark.parametrize("shard", [(0, 1), (1, 3)])
def test_any_position(tmp_path, shard):
    files = write_records(tmp_path, [3, 5, 4, 2] * 10)  # three groups of at most 16 files
    whole = numbers(files, shard=shard)
    assert len(whole) == len(set(whole)) == 140 // shard[1]
    for skip in (1, 16, 45, 57, 100, len(whole) - 1, len(whole), len(whole) + 5):
        assert numbers(files, skip=skip, shard=shard) == whole[skip:], skip


def test_only_the_necessary_files_are_opened(tmp_path):
    files = write_records(tmp_path, [4] * 40)
    whole = numbers(files)
    groups = [host_files(files, 1)[i : i + 16] for i in (0, 16, 32)]
    assert sorted(whole[:64]) == sorted(indices_in(groups[0])), "a group is read before the next"
    for path, *_ in groups[0]:
        pathlib.Path(path).unlink()
    assert numbers(files, skip=64) == whole[64:]
    assert numbers(files, skip=70) == whole[70:]
    others = host_files(files, 1, (1, 2))
    assert not {path for path, *_ in others} & {path for path, *_ in groups[0]}
    assert sorted(numbers(files, shard=(1, 2))) == sorted(indices_in(others))


def test_skipped_records_are_not_parsed(tmp_path):
    files = write_records(tmp_path, [6])
    damaged = list(range(4))

    def parse(record):
        number = tf.strings.to_number(record, tf.int64)
        good = tf.debugging.Assert(tf.reduce_all(number != damaged), ["parsed"])
        with tf.control_dependencies([good]):
            return {"label": tf.identity(number)}

    assert [int(e["label"]) for e in read_records(files, parse, None, skip=4)] == [4, 5]
