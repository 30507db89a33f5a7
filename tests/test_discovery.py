"""Prices for machines: the manifest, OpenAPI and the live quote are one table, and say the same."""

import json
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from helpers.provider import Ledger, answering, ask, provider
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import paywall
from paywall import upto
from paywall.asgi import Paywall
from paywall.discovery import MANIFEST_PATH, PRICE_EXTENSION, bazaar, find
from paywall.kinds import CLOSED, FixedPrice, free_first, pass_for

Json = dict[str, Any]


async def by_request(request: Request) -> FixedPrice:
    return "$0.002"


PRICES: dict[str, Any] = {
    "GET /weather/{city}": "$0.001",
    "POST /chat": upto("$0.01"),
    "/v1/*": "$0.004",
    "GET /asked": by_request,
    "GET /news": pass_for("$0.50", hours=24),
    "GET /search": free_first(100, then="$0.001"),
    "GET /free": None,
    "GET /closed": CLOSED,
}


def fastapi() -> FastAPI:
    app = FastAPI()

    @app.get("/declared/{number}", dependencies=[Depends(paywall.charge("$0.003"))])
    async def declared(number: int) -> int:
        return number

    @app.get("/weather/{city}", responses={"404": {"description": "no such city"}})
    async def weather(city: str) -> str:
        return city

    @app.post("/chat")
    async def chat() -> str:
        return ""

    @app.get("/asked")
    async def asked() -> str:
        return ""

    @app.get("/free")
    async def free() -> str:
        return ""

    @app.get("/v1/models")
    async def models() -> str:
        return ""

    return app


def wall_around(app: Any, prices: dict[str, Any] | None = None, **options: Any) -> Paywall:
    return provider(app, PRICES if prices is None else prices, chain=Ledger(), **options)


async def manifest_of(wall: Paywall, **fields: Any) -> Json:
    answer = await ask(wall, MANIFEST_PATH, **fields)
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    told: Json = answer.json
    return told


def by_route(manifest: Json) -> dict[tuple[str, str], Json]:
    return {
        (item["input"]["method"], item["input"]["routeTemplate"]): item
        for item in manifest["items"]
    }


async def quoted(wall: Paywall, method: str, path: str) -> list[Json]:
    answer = await ask(wall, path, method)
    assert answer.status == 402, (method, path)
    accepts: list[Json] = answer.quote["accepts"]
    return accepts


SAMPLES = {":city": "paris", ":number": "7", "*": "anything"}


def filled(template: str) -> str:
    for sign, value in SAMPLES.items():
        template = template.replace(sign, value)
    return template


async def test_manifest_openapi_and_live_quote_agree_on_every_route() -> None:
    app = fastapi()
    wall = wall_around(app)
    items = by_route(await manifest_of(wall))
    document = app.openapi()
    described = 0
    for (method, template), item in items.items():
        live = await quoted(wall, method, filled(template))
        dynamic = template == "/asked"
        assert item["accepts"] == ([] if dynamic else live), template
        path = template.replace(":city", "{city}").replace(":number", "{number}")
        operation = document["paths"].get(path, {}).get(method.lower())
        if operation:
            described += 1
            assert "402" in operation["responses"]
            info = operation[PRICE_EXTENSION]
            assert info.get("accepts", live) == live
            assert info["pricingMode"] == ("dynamic" if dynamic else info["pricingMode"])
    assert described == 4
    assert set(items) == {
        ("GET", "/weather/:city"),
        ("POST", "/chat"),
        ("GET", "/v1/*"),
        ("POST", "/v1/*"),
        ("GET", "/asked"),
        ("GET", "/news"),
        ("GET", "/search"),
        ("GET", "/declared/:number"),
    }


async def test_openapi_says_what_each_operation_costs() -> None:
    app = fastapi()
    wall = wall_around(app)
    await manifest_of(wall)  # reads the table
    document = json.loads((await ask(wall, "/openapi.json")).body)
    weather = document["paths"]["/weather/{city}"]["get"]
    assert weather["responses"]["402"]["description"].startswith("Payment required: $0.001.")
    assert "404" in weather["responses"]
    assert weather[PRICE_EXTENSION]["price"] == "$0.001"
    assert weather[PRICE_EXTENSION]["amount"] == "1000"
    chat = document["paths"]["/chat"]["post"]
    assert chat["responses"]["402"]["description"].startswith("Payment required: at most $0.01.")
    assert chat[PRICE_EXTENSION]["pricingMode"] == "metered"
    assert document["paths"]["/v1/models"]["get"][PRICE_EXTENSION]["price"] == "$0.004"
    declared = document["paths"]["/declared/{number}"]["get"]
    assert declared[PRICE_EXTENSION]["price"] == "$0.003"
    asked = document["paths"]["/asked"]["get"]
    assert asked[PRICE_EXTENSION] == {"protocols": ["x402"], "pricingMode": "dynamic"}
    assert PRICE_EXTENSION not in document["paths"]["/free"]["get"]
    assert "402" not in document["paths"]["/free"]["get"]["responses"]


async def test_terms_of_passes_and_free_requests_are_told() -> None:
    app = FastAPI()
    for path in ("/news", "/search"):
        app.get(path)(lambda: "")
    wall = wall_around(app)
    items = by_route(await manifest_of(wall))
    assert items["GET", "/news"]["requires"] == ["sign-in-with-x"]
    paths = app.openapi()["paths"]
    assert paths["/news"]["get"][PRICE_EXTENSION]["pass"] == {"seconds": 86_400}
    free = {"requests": 100, "seconds": 86_400}
    assert paths["/search"]["get"][PRICE_EXTENSION]["free"] == free


async def test_the_manifest_names_the_origin_that_was_asked_or_the_public_one() -> None:
    prices = {"GET /a": "$0.001"}
    (item,) = (await manifest_of(wall_around(answering(), prices)))["items"]
    assert item["resource"] == {"url": "http://api.example/a"}
    wall = wall_around(answering(), prices, public_url="https://shop.example", description="A.")
    (item,) = (await manifest_of(wall))["items"]
    assert item["resource"] == {"url": "https://shop.example/a", "description": "A."}


async def test_the_manifest_is_public_and_has_no_body_for_head() -> None:
    wall = wall_around(answering(), {"GET /a": "$0.001"})
    answer = await ask(wall, MANIFEST_PATH)
    assert answer.header("access-control-allow-origin") == "*"
    assert answer.header("cache-control") == "public, max-age=60"
    head = await ask(wall, MANIFEST_PATH, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.header("content-length") == str(len(answer.body))


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_other_verbs_on_its_path_are_the_apps(method: str) -> None:
    wall = wall_around(answering(404), {"GET /a": "$0.001"})
    assert (await ask(wall, MANIFEST_PATH, method)).status == 404


async def test_it_can_be_switched_off() -> None:
    app = fastapi()
    wall = wall_around(app, discovery=False)
    assert (await ask(wall, MANIFEST_PATH)).status == 404
    assert PRICE_EXTENSION not in json.dumps(app.openapi())


async def test_under_a_mount_point_it_is_found_there_and_nowhere_else() -> None:
    wall = wall_around(answering(), {"GET /a": "$0.001"})
    outer = Starlette(routes=[Mount("/shop", wall)])
    assert (await ask(outer, "/shop" + MANIFEST_PATH)).status == 200
    assert (await ask(outer, "/shop/b" + MANIFEST_PATH)).body == b"served"


async def test_after_new_prices_the_manifest_says_the_new_ones() -> None:
    wall = wall_around(answering(), {"GET /a": "$0.001"})
    await manifest_of(wall)
    wall.reprice({"GET /a": "$0.005"})
    (item,) = (await manifest_of(wall))["items"]
    assert item["accepts"] == await quoted(wall, "GET", "/a")
    assert item["accepts"][0]["amount"] == "5000"


@pytest.mark.parametrize(("method", "has_body"), [("GET", False), ("POST", True)])
async def test_bazaar_says_how_a_resource_is_called(method: str, has_body: bool) -> None:
    wall = wall_around(answering(), {"/a": "$0.001"}, bazaar=True)
    told = (await ask(wall, "/a", method)).quote["extensions"]
    assert "payment-identifier" in told
    info, schema = told["bazaar"]["info"], told["bazaar"]["schema"]
    assert info["input"]["method"] == method
    assert ("bodyType" in info["input"]) is has_body
    assert schema["properties"]["input"]["properties"]["method"]["enum"] == [method]
    assert set(schema["properties"]["input"]["required"]) <= set(info["input"])


async def test_without_bazaar_the_quote_has_none() -> None:
    wall = wall_around(answering(), {"/a": "$0.001"})
    assert "bazaar" not in (await ask(wall, "/a")).quote["extensions"]
    assert set(bazaar("GET")) == {"bazaar"}


async def test_a_route_of_any_kind_of_parameter_is_found() -> None:
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("")

    endpoint = paywall.paid("$0.001")(page)
    paths = ["/i/{a:int}", "/f/{a:float}", "/u/{a:uuid}", "/s/{a}"]
    routes = [Route(path, endpoint) for path in paths]
    wall = wall_around(Starlette(routes=routes), {"GET /else": "$0.001"})
    for path in ("/i/{a}", "/f/{a}", "/u/{a}", "/s/{a}"):
        assert find(wall.table, "GET", path), path
    assert find(wall.table, "GET", "/other/{a}") is None
