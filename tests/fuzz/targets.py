"""All targets, by name."""

from collections.abc import Callable
from typing import Final

from fuzz.doors import Paths, PaymentHeaders
from fuzz.strangers import Facilitators, Nodes, Quotes
from fuzz.target import Target
from fuzz.words import Amounts, Hex, Signatures

_ALL: Final = (PaymentHeaders, Paths, Amounts, Signatures, Hex, Quotes, Nodes, Facilitators)
TARGETS: Final[dict[str, Callable[[], Target]]] = {one.name: one for one in _ALL}
