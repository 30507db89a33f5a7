"""Prices at the routes themselves: read into the one table, charged like all others."""

from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI
from helpers.channels import ASSET, TERMS
from helpers.provider import (
    PRICE,
    PRICED,
    Agent,
    Client,
    FaultyStore,
    Ledger,
    answering,
    ask,
    buy,
    paying,
    provider,
    record_of,
)
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from paywall import CLOSED, Payment, Paywall, charge, paid, upto
from paywall.kinds import FixedPrice
from paywall.prices import Price, PriceTable
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.x402 import show_address

Paid = Annotated[Payment, Depends(charge(PRICED))]


@paid(PRICED)
async def weather(request: Request, payment: Payment) -> Response:
    return PlainTextResponse(f"{request.path_params.get('city')} for {payment.amount}")


async def free(request: Request) -> Response:
    return PlainTextResponse("free")


def starlette_app() -> Starlette:
    return Starlette(
        routes=[
            Route("/cities/all", free),
            Route("/cities/{city}", weather),
            Route("/numbers/{city:int}", weather, methods=["POST"]),
            Route("/numbers/list", free),
            Mount("/inside", routes=[Route("/{city}", weather)]),
        ]
    )


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.get("/cities/all")
    async def everything() -> str:
        return "free"

    @app.get("/cities/{city}")
    async def weather(city: str, payment: Paid) -> dict[str, object]:
        return {"city": city, "payer": payment.payer, "amount": payment.amount}

    router = APIRouter(dependencies=[Depends(charge("$0.002"))])

    @router.post("/words")
    async def words(body: dict[str, int]) -> dict[str, int]:
        return body

    app.include_router(router, prefix="/routed")
    inner = FastAPI()
    inner.get("/{city}")(weather)
    app.mount("/inside", inner)
    return app


def rows(table: PriceTable) -> dict[str, Price]:
    return {rule.pattern: rule.price for rule in table.rules if rule.price is not None}


def options() -> dict[str, object]:
    """What `add_middleware` is given; the agent's channel is funded."""
    ledger = Ledger()
    ledger.fund(Agent().channel_id, 50_000)
    return {
        "pay_to": show_address(TERMS.pay_to),
        "asset": ASSET,
        "chain": ledger,
        "store": FaultyStore(),
        "min_deposit": "$0.01",
        "max_deposit": "$1",
        "withdraw_delay_seconds": TERMS.withdraw_delay_seconds,
    }


def declared_only(app: Starlette, **more: object) -> Paywall:
    return Paywall(app, **{**options(), **more})


# -- One table -----------------------------------------------------------------------------------


def test_what_routes_declare_is_in_the_one_table() -> None:
    assert rows(declared_only(starlette_app()).table) == {
        "GET /cities/{city}": PRICED,
        "POST /numbers/{city:int}": PRICED,
        "GET /inside/{city}": PRICED,
    }
    assert rows(declared_only(fastapi_app()).table) == {
        "GET /cities/{city}": PRICED,
        "POST /routed/words": "$0.002",
        "GET /inside/{city}": PRICED,
    }


def test_what_stands_in_the_table_comes_before_what_routes_declare() -> None:
    wall = declared_only(starlette_app(), prices={"GET /cities/{city}": "$0.005"})
    rule = wall.table.find("GET", "/cities/paris", b"", "")
    assert rule is not None
    assert rule.price == "$0.005"


def test_an_app_without_any_price_does_not_start() -> None:
    with pytest.raises(ConfigurationError, match="no prices"):
        _ = declared_only(Starlette(routes=[Route("/", free)])).table


def test_a_route_with_two_prices_does_not_start() -> None:
    app = FastAPI(dependencies=[Depends(charge("$0.002"))])

    @app.get("/twice")
    async def twice(payment: Paid) -> None: ...

    with pytest.raises(ConfigurationError, match="2 different prices"):
        _ = declared_only(app).table


@pytest.mark.parametrize("price", ["$0.0000001", "free", upto("-1")])
def test_a_price_that_cannot_be_paid_does_not_start(price: FixedPrice) -> None:
    app = Starlette(routes=[Route("/", paid(price)(lambda request, payment: Response()))])
    with pytest.raises(ConfigurationError):
        _ = declared_only(app).table


def test_a_class_is_not_decorated() -> None:
    with pytest.raises(ConfigurationError, match="class"):
        paid(PRICED)(Response)


# -- Charged -------------------------------------------------------------------------------------


async def test_a_decorated_endpoint_is_quoted_paid_and_given_its_payment() -> None:
    wall = declared_only(starlette_app())
    quote = await ask(wall, "/cities/paris")
    assert quote.status == 402
    assert quote.quote["accepts"][0]["amount"] == str(PRICE)
    answer = await buy(wall, PRICE, "/cities/paris")
    assert (answer.status, answer.body) == (200, b"paris for 1000")
    assert answer.receipt["extra"]["chargedAmount"] == str(PRICE)
    assert (await record_of(wall)).charged == PRICE


async def test_a_decorated_function_may_be_a_plain_one() -> None:
    def plain(request: Request, payment: Payment) -> Response:
        return PlainTextResponse(payment.payer)

    wall = declared_only(Starlette(routes=[Route("/", paid(PRICED)(plain))]))
    assert (await buy(wall, PRICE, "/")).status == 200


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
async def test_routes_without_a_price_are_free_where_they_stand_before(make) -> None:
    wall = declared_only(make())
    assert (await ask(wall, "/cities/all")).status == 200
    assert (await ask(wall, "/cities/paris")).status == 402
    assert (await ask(wall, "/inside/paris")).status == 402


async def test_a_converter_covers_what_the_router_gives_it() -> None:
    wall = declared_only(starlette_app())
    assert (await ask(wall, "/numbers/12", "POST")).status == 402
    assert (await ask(wall, "/numbers/list")).status == 200


async def test_a_dependency_gives_the_handler_its_payment() -> None:
    wall = declared_only(fastapi_app())
    answer = await buy(wall, PRICE, "/cities/rome")
    assert answer.json == {
        "city": "rome",
        "payer": show_address(Agent().config.payer),
        "amount": PRICE,
    }
    assert (await buy(wall, 2 * PRICE, "/inside/rome")).json["city"] == "rome"
    assert (await record_of(wall)).charged == 2 * PRICE


async def test_case_9_an_unpaid_upload_to_a_dependency_is_not_read() -> None:
    wall = declared_only(fastapi_app())
    client = Client()
    answer = await ask(wall, "/routed/words", "POST", client=client)
    assert (answer.status, client.reads) == (402, 0)


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
async def test_the_paywall_may_be_a_middleware_of_the_app(make) -> None:
    app = make()
    app.add_middleware(Paywall, **options())
    assert (await ask(app, "/cities/all")).status == 200
    assert (await ask(app, "/cities/paris")).status == 402
    answer = await ask(app, "/cities/paris", headers=paying(Agent().pay(PRICE)))
    assert answer.status == 200


async def test_a_handler_that_fails_is_not_charged() -> None:
    app = FastAPI()

    @app.get("/fails/{number}")
    async def fails(number: int, payment: Paid) -> None: ...

    wall = declared_only(app)
    answer = await buy(wall, PRICE, "/fails/x")
    assert answer.status == 422
    assert (await record_of(wall)).charged == 0


async def test_a_dependency_streams_and_meters() -> None:
    app = FastAPI()

    @app.get("/words")
    async def words(
        payment: Annotated[Payment, Depends(charge(upto("$0.01")))],
    ) -> StreamingResponse:
        async def stream() -> AsyncIterator[bytes]:
            for _ in range(3):
                payment.charge("$0.0001")
                yield b"word "

        return StreamingResponse(stream())

    wall = declared_only(app)
    answer = await ask(wall, "/words", headers=paying(Agent().pay(10_000, 10_000)))
    assert answer.receipt["extra"]["chargedAmount"] == "10000"
    assert [message["body"] for message in answer.messages[1:4]] == [b"word "] * 3
    assert (await record_of(wall)).charged == 300


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
async def test_a_priced_handler_never_runs_without_a_paywall(make) -> None:
    with pytest.raises(ConfigurationError, match="no paywall has asked"):
        await ask(make(), "/cities/paris")


async def test_case_2_a_table_around_a_mount_is_not_taken_for_the_outer_apps() -> None:
    wall = provider(answering(), {"/priced": PRICED})
    outer = Starlette(routes=[Mount("/mount", wall)], middleware=[Middleware(Passing)])
    assert (await ask(outer, "/mount/priced")).status == 402
    assert (await ask(outer, "/mount/other")).status == 200


class Passing:
    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        await self.app(scope, receive, send)


# -- Closed and exempt ---------------------------------------------------------------------------


async def test_closed_what_has_no_price_is_not_there() -> None:
    wall = provider(
        answering(), {"/priced": PRICED, "GET /free/*": None, "/never": CLOSED}, unpriced="closed"
    )
    statuses = {
        path: (await ask(wall, path)).status
        for path in ("/priced", "/free/x", "/never", "/other", "/free/../other", "/")
    }
    assert statuses == {
        "/priced": 402,
        "/free/x": 200,
        "/never": 404,
        "/other": 404,
        "/free/../other": 400,
        "/": 404,
    }
    assert (await ask(wall, "/free/x", "POST")).status == 404
    assert (await ask(wall, "/api/priced", root_path="/api")).status == 402
    assert (await ask(wall, "/other", headers=paying(Agent().pay(PRICE)))).status == 404


async def test_closed_routes_that_declare_nothing_are_closed_too() -> None:
    wall = declared_only(starlette_app(), unpriced="closed")
    assert (await ask(wall, "/cities/all")).status == 404
    assert (await ask(wall, "/cities/paris")).status == 402


def test_unpriced_is_free_or_closed() -> None:
    with pytest.raises(ConfigurationError, match="unpriced"):
        provider(answering(), unpriced="open")


async def test_who_the_owner_knows_passes_by_and_the_handler_sees_what_it_would_cost() -> None:
    async def knows(request: Request) -> bool:
        return request.headers.get("x-api-key") == "known" and await request.body() == b"body"

    async def app(scope, receive, send) -> None:
        request = Request(scope, receive)
        payment = request.state.payment
        left = payment.charge(PRICE - 1)
        text = f"{await request.body()!r} {left} {payment.charged}"
        await PlainTextResponse(text)(scope, receive, send)

    wall = provider(app, exempt=knows)
    answer = await ask(wall, "/priced", headers=[(b"x-api-key", b"known")], body=b"body")
    assert (answer.status, answer.body) == (200, b"b'body' 1 0")
    assert answer.header("cache-control") == "private"
    assert answer.header("payment-response") is None
    assert (await ask(wall, "/priced", headers=[(b"x-api-key", b"other")])).status == 402
