"""How a crowd comes to rest: what is under way ends well, everybody is served, and both sides count
the same. See `simulate.crowd`.
"""

from typing import TYPE_CHECKING, Final

from paywall.walletstate import FORGOTTEN_SECONDS

if TYPE_CHECKING:
    from simulate.crowd import Crowd, Payer

MOMENT_SECONDS: Final = 0.002
"""Until a store has answered."""


async def rest(world: "Crowd") -> None:
    """What is under way ends. Then everybody is served, and both sides count the same."""
    world.faults.only({})
    await _serve(world, FORGOTTEN_SECONDS + 10.0)
    for payer in world.payers:
        await _served(world, payer)
    account, record = world.account(), world.record()
    if account is None or record is None or world.oracle.violations:
        return
    known = account.charged + account.doubtful
    what = f"the agent counts {account.charged} to {known}, its provider {record.charged}"
    agree = account.charged <= record.charged <= known and not account.flying
    world.oracle.expect(agree, account.channel_id, what)
    world.oracle.counts["books that agree to the unit"] += account.charged == record.charged


async def _served(world: "Crowd", payer: "Payer") -> None:
    outcomes = []
    for _ in range(3):
        task = world.begin(payer, "item")
        await _serve(world, 100.0)
        outcomes.append(task.result())
    world.oracle.expect("200" in outcomes, b"", f"who pays is not served: {outcomes}")


async def _serve(world: "Crowd", seconds: float) -> None:
    """Everything arrives and ends well."""
    until = world.loop.time() + seconds
    while world.loop.time() < until:
        await world.loop.pause(MOMENT_SECONDS)
        if world.post.mail:
            world.post.deliver(0)
        elif world.kitchen.waiting:
            world.kitchen.waiting.pop(0).set_result("whole")
        else:
            await world.loop.pause(0.5)
