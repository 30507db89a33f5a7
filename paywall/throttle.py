"""Rate limits in bounded memory: one token bucket per caller.

A bucket fills at `rate` tokens a second up to `burst`, and a request takes one. Callers who were
not seen for longest are forgotten first; a forgotten caller finds a full bucket, which is what it
would have had after that long.
"""

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from paywall.clock import steady_time
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import MAX_CALLERS


class Throttle:
    """`rate` requests a second for each caller, after `burst` at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = steady_time) -> None:
        if not 0 < rate <= 1e6 or not 1 <= burst <= 1e6:
            raise ConfigurationError("a rate is above zero, and a burst at least one")
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_seconds(self, caller: str) -> float:
        """Takes a token; zero when there was one, otherwise how long until there will be."""
        now = self._clock()
        tokens, then = self._buckets.pop(caller, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - then) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[caller] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return wait


def caller_of(host: str) -> str:
    """Who an address belongs to: whoever has one IPv6 address has the other 2^64 of its network."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        return address.packed[:8].hex()
    return str(address)
