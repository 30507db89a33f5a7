"""What a channel takes in the memory of a process that keeps its channels there."""

import asyncio
import time
import tracemalloc
from typing import Final

from helpers.channels import NETWORK, config, voucher

from bench.findings import Findings
from paywall.protocol.channel import ChainState, ChannelConfig
from paywall.stores.memory import MemoryStore

_CHANNELS: Final = 5_000
_PRICE: Final = 1_000


def process_memory(found: Findings) -> None:
    """Bytes per channel that has served once and is idle."""
    configs = [config(number) for number in range(_CHANNELS)]
    tracemalloc.start()
    store = MemoryStore()
    before = tracemalloc.get_traced_memory()[0]
    asyncio.run(_fill(store, configs))
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    found.figures["process_bytes_per_channel"] = round(used / _CHANNELS)


async def _fill(store: MemoryStore, configs: list[ChannelConfig]) -> None:
    now_ms = int(time.time() * 1000)
    for one in configs:
        channel_id = one.channel_id(NETWORK)
        chain = ChainState(10**9, 0, 0, 0, 0, 1, now_ms)
        await store.record(channel_id, NETWORK, one, chain, 0)
        await store.reserve(channel_id, voucher(_PRICE), _PRICE, "first")
        await store.charge(channel_id, "first", _PRICE)
