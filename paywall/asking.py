"""A step that asks somebody else: the owner for approval, or a signer for a signature.

A `Call` is yielded by a conversation and made by its driver, which may wait for the answer or not:

    call.make()              threads: the function is called, and must answer at once
    await call.make_later()  asyncio: what it answers may be awaited

The driver then resumes the conversation with None; the answer is in `call.answer`. What the
function raises is raised into the conversation.
"""

import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

from paywall.protocol.errors import ConfigurationError
from paywall.protocol.money import Asset

_T = TypeVar("_T")


class Call(Generic[_T]):
    """A function to call before the conversation goes on."""

    def __init__(
        self,
        function: Callable[[], _T | Awaitable[_T]],
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._function = function
        self._within = within
        self._answer: list[_T] = []

    @property
    def answer(self) -> _T:
        assert self._answer, "the driver resumes a conversation when the call was made"
        return self._answer[0]

    def make(self) -> None:
        """Raises ConfigurationError for a function that wants to be awaited."""
        with self._within():
            found = self._function()
        if isinstance(found, Awaitable):
            if inspect.iscoroutine(found):
                found.close()  # it will not be awaited, and has nothing to say about that
            raise ConfigurationError("an asynchronous callback needs an AsyncClient")
        self._answer.append(found)

    async def make_later(self) -> None:
        with self._within():
            found = self._function()
            self._answer.append(await found if isinstance(found, Awaitable) else found)


AnyCall = Call[bool] | Call[bytes]
Asking = Generator[AnyCall, None, _T]
"""A part of a conversation that asks, and returns the answer."""


@dataclass(frozen=True)
class Approval:
    """What the owner is asked to allow: `amount` atomic units of `asset`, for one request (or for
    the deposit that its channel needs)."""

    kind: str
    origin: str
    path: str
    scheme: str
    amount: int
    asset: Asset

    def __str__(self) -> str:
        return f"{self.kind} of {self.asset.show(self.amount)} for {self.origin}{self.path}"


Approve = Callable[[Approval], bool | Awaitable[bool]]


class ApprovalNeeded(Exception):
    """Not before the owner was asked. Nothing is written down yet."""

    def __init__(self, approval: Approval) -> None:
        super().__init__(str(approval))
        self.approval = approval
