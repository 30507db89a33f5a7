"""Newcomers that are turned away, as a provider's workers would have written it down."""

import pytest

from paywall.alarms import Board
from paywall.crowd import Crowd
from paywall.protocol.errors import Refused
from paywall.protocol.payers import PayerLimits
from paywall.stores import Store


async def turn_newcomers_away(store: Store, network: str) -> None:
    """Uses up the one deposit an hour that all payers may make, and knocks once more."""
    await store.open()
    limits = PayerLimits(errands_per_hour=1, all_errands_per_hour=1)
    crowd = Crowd(limits, network, store, Board())
    await crowd.join()
    with pytest.raises(Refused):
        await crowd.knock()
    await store.close()
