"""A mark for long tests that one stack is enough for.

Not in conftest.py, for the reason in shared_data.py.
"""

import pytest

from noah_tf.utils.keras_compat import IS_KERAS_3

slow_on_one_stack = pytest.mark.slow if IS_KERAS_3 else pytest.mark.exhaustive
