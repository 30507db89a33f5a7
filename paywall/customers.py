"""Who has made a transfer here: a customer, and no stranger any more.

A transfer that is only signed costs its signer nothing, and only the chain can tell whether it is
covered. One that was mined has cost its price. So the readings that strangers may cause are bounded
(`paywall.strangers`), and those for customers are not; all workers of a store know the same ones.
What it does not know: what was bought, or for how much.
"""

from typing import Final

from paywall.protocol.eip712 import keccak
from paywall.protocol.errors import Reason
from paywall.protocol.limits import PAYER_SECONDS
from paywall.protocol.money import Address
from paywall.stores import Store
from paywall.stores.slips import slips_of
from paywall.strangers import Strangers

_KEPT_MS: Final = PAYER_SECONDS * 1000
PAID: Final = b"\x01"


class Customers:
    """The payers of transfers of one provider on one network."""

    def __init__(self, network: str, store: Store, strangers: Strangers) -> None:
        self._network = network
        self._slips = slips_of(store)
        self._strangers = strangers

    async def meet(self, payer: Address) -> None:
        """The chain is about to be read for this payer. Raises Refused when it is a stranger and
        there are too many of them just now, or Unavailable.
        """
        if (await self._slips.read(self._key(payer)))[0] is None:
            self._strangers.knock(Reason.TOO_MANY_NEW_PAYERS)

    async def remember(self, payer: Address) -> None:
        """A transfer of this payer was mined. Raises Unavailable."""
        key = self._key(payer)
        before, _ = await self._slips.read(key)
        await self._slips.swap(key, before, PAID, _KEPT_MS)

    def _key(self, payer: Address) -> bytes:
        return keccak(b"paywall:customer:" + self._network.encode() + payer)
