"""The client side of serving: predictions from TF Serving and KServe, and load tests.

On the command line, `python -m noah_tf.serving --help`.
"""

from noah_tf.serving.client import Client
from noah_tf.serving.credentials import Credentials
from noah_tf.serving.errors import ServingError

__all__ = ["Client", "Credentials", "ServingError"]
