"""A mark for long tests that one stack is enough for.

Not in conftest.py, for the reason in shared_data.py.
"""

import pytest

from benchmarks.backbone_cases import KERAS_3

slow_on_one_stack = pytest.mark.slow if KERAS_3 else pytest.mark.exhaustive
