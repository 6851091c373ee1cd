"""Clocks for tests that do not depend on the time of day."""

import threading

from noah_tf.serving.clock import Clock


class FakeClock(Clock):
    """A clock that stands still but for its own `sleep`.

    Each thread has a time of its own, which starts at 0, so that what one thread measures does not
    depend on how the system schedules the others.

    Attributes:
        pauses: the seconds that were slept, in order.
    """

    def __init__(self):
        time = threading.local()
        pauses = []

        def sleep(seconds):
            pauses.append(seconds)
            time.now = now() + seconds

        def now():
            return getattr(time, "now", 0.0)

        super().__init__(now=now, sleep=sleep, cpu=lambda: 0.0)
        object.__setattr__(self, "pauses", pauses)
