"""Key and value channels, and the suggestions of the error message."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from noah_tf.head.channel_split import check_division, key_value_channels


@pytest.mark.parametrize(
    ("ratio", "parts"), [(0.5, (50, 51)), (0.125, (12, 89)), (None, (101, 101)), (0.001, (0, 101))]
)
def test_key_channels_are_rounded_down(ratio, parts):
    assert key_value_channels(101, ratio) == parts


@settings(max_examples=150, deadline=None)
@given(
    channels=st.integers(1, 300),
    groups=st.integers(1, 40),
    ratio=st.none() | st.floats(0.001, 0.999),
)
def test_every_suggestion_of_the_error_message_works(channels, groups, ratio):
    options = {"num_groups": groups, "key_ratio": ratio}
    try:
        check_division(channels, **options)
    except ValueError as error:
        message = str(error)
    else:
        message = None
    assume(message is not None)
    assert ("key_ratio" in message.split(":")[0]) == (ratio is not None)
    suggestions = re.findall(
        r"(num_groups|key_ratio)=([\d.]+(?: or [\d.]+)?)", message.split("use ")[1]
    )
    if not suggestions:
        assert "use fewer groups or more channels" in message
    for name, values in suggestions:
        for value in values.rstrip(".").split(" or "):
            value = int(value) if name == "num_groups" else float(value)
            check_division(channels, **{**options, name: value})
