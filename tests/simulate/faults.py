"""Which faults strike, how often, and how long everything takes: drawn anew for every world.

Worlds differ: in some nothing but the network fails, in some everything does, and some are calm but
for crashes. A fault of which every run has a little hides those that need calm, or another fault
often. `calm` ends them all, so that a world can come to rest and be counted.
"""

from collections import Counter
from math import log
from random import Random
from typing import Final

KINDS: Final = {
    "connection refused": 0.01,
    "request lost": 0.004,
    "request duplicated": 0.01,
    "request delayed": 0.01,
    "answer lost": 0.01,
    "gateway error": 0.003,
    "client hangs up": 0.006,
    "replayed by a stranger": 0.02,
    "store refuses": 0.004,
    "store reply lost": 0.004,
    "store slow": 0.004,
    "chain unreachable": 0.03,
    "chain reply lost": 0.03,
    "reorganisation": 0.1,
    "transaction late": 0.2,
    "transaction dropped": 0.2,
    "handler fails": 0.02,
    "handler slow": 0.002,
    "wallet file lost": 0.2,
    "power cut": 0.3,
}
"""Kinds and how often they strike where a world has them at their usual strength.

The last two strike an agent that was killed.
"""

RARE: Final = {
    "worker killed": 6.0,
    "agent killed": 6.0,
    "store fails over": 2.0,
    "store flushed": 0.3,
    "store outage": 1.5,
    "store clock steps": 0.1,
    "wallet clock steps": 0.2,
    "withdrawal": 4.0,
    "refund": 4.0,
}
"""Kinds that strike the world as a whole: how often in a thousand payments."""

_WAYS_SECONDS: Final = {"network": 0.02, "store": 0.001, "chain": 0.05}
"""How long a message takes on each way, on average."""
_STRENGTHS: Final = (0.0, 0.3, 1.0, 1.0, 3.0)


class Faults:
    """Draws faults, and counts those that struck."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.chances = {kind: p * random.choice(_STRENGTHS) for kind, p in KINDS.items()}
        self.rates = {kind: p * random.choice(_STRENGTHS) for kind, p in RARE.items()}
        self.struck: Counter[str] = Counter()
        slowness = random.choice((0.5, 1.0, 1.0, 4.0))
        self._scales = {way: slowness * seconds for way, seconds in _WAYS_SECONDS.items()}
        self._draw = random.random
        self._gas = random.choice((10**6, 10**7, 10**9))

    def strikes(self, kind: str) -> bool:
        if self._draw() >= self.chances[kind]:
            return False
        self.struck[kind] += 1
        return True

    def note(self, kind: str) -> None:
        """One of the rare kinds has struck."""
        self.struck[kind] += 1

    def delay(self, way: str) -> float:
        """Seconds that a message takes; never nothing, so that it can be overtaken."""
        return 1e-4 - self._scales[way] * log(1.0 - self._draw())

    def gas_price_wei(self) -> int:
        return self._gas * self._random.randrange(1, 5)

    def only(self, chances: dict[str, float]) -> None:
        """No faults but these, and every message takes as short as it can."""
        self.chances = dict.fromkeys(KINDS, 0.0) | chances
        self._scales = dict.fromkeys(self._scales, 0.0)

    def calm(self) -> None:
        """No more faults, and cheap gas."""
        self.chances = dict.fromkeys(self.chances, 0.0)
        self.rates = dict.fromkeys(self.rates, 0.0)
        self._gas = 10**6
