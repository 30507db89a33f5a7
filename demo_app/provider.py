"""A small API that agents pay for: `uvicorn demo_app.provider:app`.

    GET  /            free
    GET  /weather/…   a fixed price
    POST /chat        metered: a stream that costs a little per word, up to a ceiling
    POST /v1/chat/completions    the same for the OpenAI SDKs

Settings come from the environment: RPC_URL and PAYWALL_KEY (the key that signs claims and pays
their gas), PAY_TO (the wallet that earns), and PAYWALL_STORE (SQLite by default).
"""

import asyncio
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from demo_app.completions import completions
from paywall import USDC, Node, Paywall, payment_of, per_token, upto


async def home(request: Request) -> JSONResponse:
    return JSONResponse({"service": "demo", "try": "/weather/paris"})


async def weather(request: Request) -> JSONResponse:
    city = request.path_params["city"]
    return JSONResponse({"city": city, "celsius": 14 + sum(city.encode()) % 15})


async def chat(request: Request) -> StreamingResponse:
    """Echoes the message word by word; every word that is sent costs $0.0001."""
    message = (await request.json())["message"]

    async def words() -> AsyncIterator[str]:
        for word in message.split():
            yield f"data: {word}\n\n"
            await asyncio.sleep(0.01)

    charged = per_token(payment_of(request), words(), "$0.0001")
    return StreamingResponse(charged, media_type="text/event-stream")


app = Paywall(
    Starlette(
        routes=[
            Route("/", home),
            Route("/weather/{city}", weather),
            Route("/chat", chat, methods=["POST"]),
            Route("/v1/chat/completions", completions, methods=["POST"]),
        ]
    ),
    prices={
        "GET /weather/{city}": "$0.001",
        "POST /chat": upto("$0.01"),
        "POST /v1/chat/completions": upto("$0.01"),
    },
    pay_to=os.environ["PAY_TO"],
    asset=USDC.base_sepolia,
    chain=Node(os.environ["RPC_URL"], os.environ["PAYWALL_KEY"], network="eip155:84532"),
    store=os.environ.get("PAYWALL_STORE", "sqlite:///paywall.db"),
)
