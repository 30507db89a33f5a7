"""The time by which deadlines are kept: Unix seconds that nobody can step.

An administrator, or NTP after a long outage, may set the wall clock an hour forth or back; if
deadlines followed, every hold and every reading of the chain would expire at once, or live an hour
too long. So the wall is asked once per process, and from then on a clock that only runs forward
counts. It counts through a suspended machine too, where the platform has such a clock: the chain's
time goes on meanwhile, and the margin of a withdrawal is measured against that.

It refuses to know whether the wall was right when the process began: a wrong one is mended by a
restart.
"""

import sys
import time


def _elapsed() -> float:
    """Seconds since some moment before this process began."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)  # CLOCK_MONOTONIC stops in a suspension
    return time.monotonic()


_BEGAN = time.time() - _elapsed()


def steady_time() -> float:
    """Unix seconds, whatever happens to the wall clock after the process began."""
    return _BEGAN + _elapsed()
