"""An agent that buys: `PAYWALL_KEY=0x… python -m demo_app.agent http://127.0.0.1:8402`."""

import asyncio
import sys

import paywall


async def main(base_url: str) -> None:
    wallet = paywall.Wallet(per_request="$0.01", total="$1")  # its key is in PAYWALL_KEY
    async with paywall.AsyncClient(wallet=wallet, base_url=base_url) as client:
        answer = await client.get("/weather/paris")
        print(answer.json(), paywall.receipt(answer))

        async with client.stream("POST", "/chat", json={"message": "pay per word"}) as stream:
            async for line in stream.aiter_lines():
                print(line)

        back = await client.refund("/weather/paris")  # what was deposited and not spent
        print(f"{back.amount} units came back in {back.transaction}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
