"""The payment schemes, one file each, both sides of it.

A scheme knows how an offer is spelled, how a payment for it is checked, and how one is made. What
it learns from a payment is a value that the gate hands on; it decides nothing about money. A new
one is a file here and a line in `SCHEMES`.
"""

from typing import Final

from paywall.protocol.schemes import batch, exact

SCHEMES: Final = (
    batch.SCHEME,
    exact.SCHEME,
)
"""What a provider offers unless its owner says otherwise, in this order: the official clients take
the first offer that they know, and a channel is cheaper for both sides from the second request on.
"""
