"""`POST /v1/chat/completions`, as the OpenAI SDKs speak it, streamed or not, charged by the token.

The model is a parrot: it gives the last message back, word by word, the same for everybody. A word
is a token; what `max_tokens` or the ceiling of the price cuts off is not made and not charged.
"""

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from paywall import Meter, payment_of, per_token

MODEL = "parrot-1"
TOKEN_PRICE = "$0.0001"  # noqa: S105 (what a token of the model costs)
MILLISECONDS_PER_TOKEN = 5

Part = dict[str, object]


async def completions(request: Request) -> Response:
    asked = await request.json()
    prompt = str(asked["messages"][-1]["content"]).split()
    meter = Meter(payment_of(request), TOKEN_PRICE)
    most = asked.get("max_completion_tokens") or asked.get("max_tokens") or meter.left()
    words = prompt[: min(most, meter.left())]
    reason = "stop" if len(words) == len(prompt) else "length"
    usage: Part = {"prompt_tokens": len(prompt), "completion_tokens": len(words)}
    usage["total_tokens"] = len(prompt) + len(words)
    if asked.get("stream"):
        wanted = (asked.get("stream_options") or {}).get("include_usage")
        parts = _parts(words, reason, usage if wanted else None)
        charged = per_token(payment_of(request), parts, TOKEN_PRICE, tokens=_tokens)
        return StreamingResponse(_events(charged), media_type="text/event-stream")
    meter.add(len(words))
    message = {"role": "assistant", "content": " ".join(words)}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return JSONResponse(_of("chat.completion", choices=[choice], usage=usage))


async def _parts(words: list[str], reason: str, usage: Part | None) -> AsyncIterator[Part]:
    for number, word in enumerate(words):
        delta = {"role": "assistant", "content": word if number == 0 else " " + word}
        yield _of("chat.completion.chunk", choices=[{"index": 0, "delta": delta}])
        await asyncio.sleep(MILLISECONDS_PER_TOKEN / 1000)
    last: Part = {"index": 0, "delta": {}, "finish_reason": reason}
    yield _of("chat.completion.chunk", choices=[last])
    if usage:
        yield _of("chat.completion.chunk", choices=[], usage=usage)


def _tokens(part: Part) -> int:
    return 1 if '"content"' in json.dumps(part) else 0


async def _events(parts: AsyncIterator[Part]) -> AsyncIterator[str]:
    async for part in parts:
        yield f"data: {json.dumps(part)}\n\n"
    yield "data: [DONE]\n\n"


def _of(kind: str, **more: object) -> Part:
    return {"id": "chatcmpl-demo", "object": kind, "created": 0, "model": MODEL, **more}
