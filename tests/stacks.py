"""Marks for tests that need to run on one stack only.

They are not in conftest.py, for the reason in shared_data.py.
"""

import pytest

from noah_tf.utils.keras_compat import IS_KERAS_3

# For long tests that one stack is enough for: slow on Keras 3, exhaustive on Keras 2.
slow_on_one_stack = pytest.mark.slow if IS_KERAS_3 else pytest.mark.exhaustive
# For tests that do not depend on Keras. They run with Keras 3.
one_stack = pytest.mark.skipif(not IS_KERAS_3, reason="does not depend on Keras")
