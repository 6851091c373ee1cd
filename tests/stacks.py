"""A mark for slow tests that need to run on one stack only.

It is not in conftest.py, for the reason in shared_data.py.
"""

import pytest

from noah_tf.utils.keras_compat import IS_KERAS_3

# For long tests that one stack is enough for: slow on Keras 3, exhaustive on Keras 2.
slow_on_one_stack = pytest.mark.slow if IS_KERAS_3 else pytest.mark.exhaustive
