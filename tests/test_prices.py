"""Which request costs what, and that no spelling of it is free."""

from urllib.parse import quote, unquote

import pytest
from helpers.provider import Answer, ask, provider
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from paywall.kinds import upto
from paywall.prices import ANY, Price, PriceTable
from paywall.protocol.errors import ConfigurationError, Refused


def found(
    prices: dict[str, Price], method: str, path: str, raw_path: bytes = b"", root_path: str = ""
) -> Price | str:
    """The price of a request; "refused" when its path is."""
    try:
        rule = PriceTable(prices).find(method, path, raw_path, root_path)
    except Refused:
        return "refused"
    return rule.price if rule else None


# -- Patterns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "is_priced"),
    [
        ("GET /weather", "/weather", True),
        ("GET /weather", "/weather/paris", False),
        ("GET /weather", "/weathers", False),
        ("GET /weather/{city}", "/weather/paris", True),
        ("GET /weather/{city}", "/weather/saint-denis.fr", True),
        ("GET /weather/{city}", "/weather/paris/now", False),
        ("GET /weather/{city}", "/weather", False),
        ("GET /weather/{city}/now", "/weather/paris/now", True),
        ("GET /item/{number:int}", "/item/7", True),
        ("GET /files/{name:path}", "/files/a/b/c", True),
        ("GET /files/{name:path}", "/files/", True),
        ("GET /v1/*", "/v1", True),
        ("GET /v1/*", "/v1/", True),
        ("GET /v1/*", "/v1/a/b", True),
        ("GET /v1/*", "/v10", False),
        ("GET /*", "/", True),
        ("GET /*", "/anything/at/all", True),
        ("GET /a.b", "/a.b", True),
        ("GET /a.b", "/axb", False),
        ("GET /", "/", True),
        ("GET /", "/other", False),
    ],
)
def test_a_pattern_covers_its_paths(pattern: str, path: str, is_priced: bool) -> None:
    assert found({pattern: "$1"}, "GET", path) == ("$1" if is_priced else None)


def test_the_first_pattern_that_matches_wins() -> None:
    prices: dict[str, Price] = {"GET /v1/cheap": "$1", "GET /v1/*": "$2", "/v1/*": "$3"}
    assert found(prices, "GET", "/v1/cheap") == "$1"
    assert found(prices, "GET", "/v1/dear") == "$2"
    assert found(prices, "POST", "/v1/cheap") == "$3"


def test_a_price_of_none_makes_an_exception_free() -> None:
    prices: dict[str, Price] = {"/v1/health": None, "/v1/*": "$1"}
    assert found(prices, "GET", "/v1/health") is None
    assert found(prices, "GET", "/v1/other") == "$1"


def test_a_ceiling_is_a_price() -> None:
    assert found({"/chat": upto("$0.01")}, "POST", "/chat") == upto("$0.01")


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "priced",
        "GET priced",
        "GET  /priced",
        "GET /a b",
        "FETCH /priced",
        "OPTIONS /priced",
        "GET /a/*/b",
        "GET /a*",
        "GET /{a-b}",
        "GET /{a",
        "GET /}",
        "GET /{day:date}",
        "GET /priced?x=1",
        "GET /priced#x",
        "GET /caf%C3%A9",
        "GET /priced\n",
    ],
)
def test_a_pattern_that_could_never_be_right_is_a_configuration_error(pattern: str) -> None:
    with pytest.raises(ConfigurationError):
        PriceTable({pattern: "$1"})


def test_no_prices_at_all_are_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        PriceTable({})


@pytest.mark.parametrize("other", ["GET /Priced", "GET /priced/", "/PRICED", "HEAD /priced/"])
def test_routes_that_differ_in_spelling_only_cannot_have_two_prices(other: str) -> None:
    with pytest.raises(ConfigurationError):
        PriceTable({"GET /priced": "$1", other: "$2"})
    assert found({"GET /priced": "$1", other: "$1"}, "GET", "/priced") == "$1"


@pytest.mark.parametrize("price", ["", "free", "$0", "0", "-1", "$0.0000001", "1e-3", "0.001 ETH"])
def test_case_29_a_price_that_cannot_be_paid_is_a_configuration_error(price: str) -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None: ...

    for written in (price, upto(price)):
        with pytest.raises(ConfigurationError):
            provider(nothing, {"/priced": written})


def test_a_price_that_is_no_text_is_a_configuration_error() -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None: ...

    with pytest.raises(ConfigurationError):
        provider(nothing, {"/priced": 0.001})  # type: ignore[dict-item]


# -- Verbs ---------------------------------------------------------------------------------------


def test_case_03_head_costs_what_get_costs() -> None:
    assert found({"GET /priced": "$1"}, "HEAD", "/priced") == "$1"


def test_case_03_options_is_free_even_where_every_method_is_priced() -> None:
    assert found({"/priced": "$1"}, "OPTIONS", "/priced") is None


def test_a_verb_that_the_owner_did_not_price_is_free() -> None:
    assert found({"POST /priced": "$1"}, "GET", "/priced") is None


@pytest.mark.parametrize("verb", ["FETCH", "QUERY", "get", "PROPFIND", "GET ", ANY])
def test_case_03_a_verb_that_nobody_knows_is_priced_by_its_path(verb: str) -> None:
    assert found({"POST /priced": "$1"}, verb, "/priced") == "$1"


def test_case_03_an_unknown_verb_gets_neither_the_free_nor_the_cheap_of_two_methods() -> None:
    free: dict[str, Price] = {"GET /priced": None, "POST /priced": "$1"}
    cheap: dict[str, Price] = {"GET /priced": "$1", "POST /priced": "$2"}
    assert found(free, "FETCH", "/priced") == "refused"
    assert found(cheap, "FETCH", "/priced") == "refused"
    assert found(cheap | {"POST /priced": "$1"}, "FETCH", "/priced") == "$1"


# -- Spellings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/weather/paris/",
        "//weather/paris",
        "/weather//paris",
        "/./weather/paris",
        "/x/../weather/paris",
        "/weather/x/../paris",
        "/WEATHER/paris",
        "/Weather/",
        "\\weather\\paris",
        "/weather\\paris",
        "/%77eather/paris",
        "/%2577eather/paris",
        "/weather%2Fparis",
        "/weather%252Fparis",
        "/weather;a=1/paris",
        "/x/..;/weather/paris",
        "/WEATHER/..",
        "/WEATHER/.",
        "/%77eather/a%2Fb/..",
        "/WEATHER/a%2Fb",
        "/ｗｅather/paris",
        "/weather／paris",
        "weather/paris",
    ],
)
def test_case_01_every_spelling_of_a_priced_path_is_priced(path: str) -> None:
    prices: dict[str, Price] = {"GET /weather/{city}": "$1", "GET /weather": "$1"}
    assert found(prices, "GET", path) == "$1"


@pytest.mark.parametrize(
    "path",
    [
        "/priced\n",
        "/priced\x00",
        "/priced\x7f",
        "/priced%00",
        "/priced%0A",
        "/priced%250a",
        "/priced\udcff",
        "/" + "%2525252525" * 3,
        "/" + "a" * 9_000,
    ],
)
def test_case_01_control_characters_and_endless_layers_are_refused(path: str) -> None:
    assert found({"/priced": "$1"}, "GET", path) == "refused"


def test_case_01_a_spelling_that_may_mean_two_prices_is_refused() -> None:
    prices: dict[str, Price] = {"/v1/free": None, "/v1/cheap": "$1", "/v1/*": "$2"}
    for path in ("/v1/FREE", "/v1/x/../free", "/V1/x/../free", "/v1/cheap/"):
        assert found(prices, "GET", path) == "refused", path


def test_case_01_malformed_percents_are_letters() -> None:
    assert found({"/v1/*": "$1"}, "GET", "/v1/100%") == "$1"
    assert found({"/v1/*": "$1"}, "GET", "/%zz") is None


def test_case_01_an_encoded_slash_stays_in_its_segment_for_those_who_route_so() -> None:
    prices: dict[str, Price] = {"GET /files/{name}": "$1"}
    assert found(prices, "GET", "/files/a/b", b"/files/a%2Fb") == "$1"
    assert found(prices, "GET", "/api/files/a/b", b"/api/files/a%2fb", "/api") == "$1"


def test_case_01_capital_letters_in_a_pattern_hide_nothing() -> None:
    assert found({"GET /Reports/{Name}": "$1"}, "GET", "/reports/may") == "$1"
    assert found({"GET /reports/": "$1"}, "GET", "/reports") == "$1"
    assert found({"GET /files/{name:path}": "$1"}, "GET", "/files") == "$1"


@pytest.mark.parametrize("path", ["/api/priced", "/api//priced", "//api/priced", "/API/priced"])
@pytest.mark.parametrize("root", ["/api", "/api/", "/Api"])
def test_case_02_a_mount_point_hides_nothing(path: str, root: str) -> None:
    assert found({"GET /priced": "$1"}, "GET", path, root_path=root) == "$1"
    assert found({"GET /api/priced": "$1"}, "GET", path, root_path=root) == "$1"


def test_ordinary_free_paths_stay_free() -> None:
    prices: dict[str, Price] = {"GET /weather/{city}": "$1", "/v1/*": "$2"}
    for path in ("/", "/about", "/static/Logo.svg", "/a%20b", "/caf\u00e9", "/weather", "/v2/x"):
        assert found(prices, "GET", path) is None, path


def test_what_was_found_for_long_paths_is_not_kept() -> None:
    table = PriceTable({"/v1/*": "$1"})
    for number in range(50):
        assert table.find("GET", f"/v1/{number}{'a' * 1000}", b"", "")
    assert table._find_kept.cache_info().currsize == 0


# -- In an application ---------------------------------------------------------------------------


async def _secret(request: Request) -> PlainTextResponse:
    return PlainTextResponse("the secret")


SECRET = b"the secret"
PRICES: dict[str, Price] = {
    "/secret": "$0.001",
    "GET /weather/{city}": "$0.002",
    "GET /files/{name:path}": "$0.003",
    "/api/v1/*": "$0.004",
    "GET /Mixed/Case": "$0.005",
    "GET /ends/": "$0.006",
}
VERBS = ["GET", "HEAD", "POST", "get", "FETCH"]


def _router() -> Starlette:
    """An app all of whose routes are priced, by verbs that its routes do not all check."""
    return Starlette(
        routes=[
            Route("/secret", _secret, methods=["GET", "POST"]),
            Route("/weather/{city}", _secret),
            Route("/files/{name:path}", _secret),
            Mount("/api", routes=[Mount("/v1", routes=[Route("/{rest:path}", _secret)])]),
            Route("/Mixed/Case", _secret),
            Route("/ends/", _secret),
        ]
    )


SEEDS = ["/secret", "/weather/paris", "/files/a/b", "/files/", "/api/v1/chat", "/Mixed/Case"]
SEEDS += ["/ends/", "/ends", "/weather/..", "/api/v1/../x", "/api/v1/"]


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """A raw path that somebody might hope is free: a priced one, misspelled a few times."""
    path = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(path)))
        how = draw(st.sampled_from(sorted(_MISSPELL)))
        path = _MISSPELL[how](path, at)
    return path if path.startswith("/") else "/" + path


def _encoded(text: str, times: int) -> str:
    text = "".join(f"%{byte:02X}" for byte in text.encode())
    for _ in range(times - 1):
        text = text.replace("%", "%25")
    return text


_MISSPELL = {
    "encode": lambda path, at: path[:at] + _encoded(path[at : at + 1], 1) + path[at + 1 :],
    "encode twice": lambda path, at: path[:at] + _encoded(path[at : at + 1], 2) + path[at + 1 :],
    "encode thrice": lambda path, at: path[:at] + _encoded(path[at : at + 1], 3) + path[at + 1 :],
    "encode all": lambda path, at: quote(path, safe="/"),
    "lower escapes": lambda path, at: path.replace("%2F", "%2f"),
    "slash": lambda path, at: path[:at] + "/" + path[at:],
    "back-slash": lambda path, at: path[:at] + "\\" + path[at:],
    "turn slashes": lambda path, at: path[:at] + path[at:].replace("/", "\\"),
    "encode slashes": lambda path, at: path[:at] + path[at:].replace("/", "%2F"),
    "encode slashes twice": lambda path, at: path[:at] + path[at:].replace("/", "%252F"),
    "dot": lambda path, at: path.replace("/", "/./", 1),
    "there and back": lambda path, at: "/x/.." + path,
    "out and in": lambda path, at: path[:at] + "/../" + path[at:],
    "up at the end": lambda path, at: path + "/..",
    "dot at the end": lambda path, at: path + "/.",
    "capitals": lambda path, at: path[:at] + path[at:].upper(),
    "small letters": lambda path, at: path.lower(),
    "trailing slash": lambda path, at: path + "/",
    "no trailing slash": lambda path, at: path.rstrip("/"),
    "parameters": lambda path, at: path[:at] + ";a=1" + path[at:],
    "NUL": lambda path, at: path[:at] + "%00" + path[at:],
    "newline": lambda path, at: path + "%0A",
    "space": lambda path, at: path + "%20",
    "wide letters": lambda path, at: path[:at] + path[at:].replace("s", "%EF%BD%93"),
    "overlong slash": lambda path, at: path[:at] + "%C0%AF" + path[at:],
}


def _decode_again(path: str) -> str:
    return unquote(unquote(path))


def _collapse(path: str) -> str:
    while "//" in path:
        path = path.replace("//", "/")
    return path


def _resolve(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept).lstrip("/")


_TIDYING = {
    "decode again": _decode_again,
    "turn slashes": lambda path: path.replace("\\", "/"),
    "no parameters": lambda path: "/".join(s.split(";")[0] for s in path.split("/")),
    "collapse": _collapse,
    "resolve": _resolve,
    "lower": str.lower,
    "no trailing slash": lambda path: path.rstrip("/") or "/",
    "trailing slash": lambda path: path.rstrip("/") + "/",
}


def _tidying(app: ASGIApp, steps: "list[str]") -> ASGIApp:
    """An app that tidies paths up before it routes them, in its own way."""

    async def tidied(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        for step in steps:
            path = _TIDYING[step](path)
        await app({**scope, "path": path}, receive, send)

    return tidied


async def _unpaid(app: ASGIApp, raw: str, verb: str, root: str = "") -> Answer:
    return await ask(
        provider(app, PRICES),
        root + unquote(raw),
        verb,
        raw_path=(root + raw).encode(),
        root_path=root,
    )


@given(raw=spellings(), verb=st.sampled_from(VERBS), root=st.sampled_from(["", "/mnt"]))
@example(raw="/secret%0A", verb="GET", root="")
@example(raw="/files/", verb="GET", root="")
@settings(max_examples=200, deadline=None)
async def test_case_01_no_spelling_reaches_a_priced_handler_unpaid(
    raw: str, verb: str, root: str
) -> None:
    answer = await _unpaid(_router(), raw, verb, root)
    assert SECRET not in answer.body
    assert answer.status in (307, 400, 402, 404, 405)


@given(
    raw=spellings(),
    steps=st.lists(st.sampled_from(sorted(_TIDYING)), unique=True, max_size=6),
    root=st.sampled_from(["", "/mnt"]),
)
@example(raw="/WEATHER/..", steps=["lower"], root="")
@example(raw="/WEATHER/a%252Fb", steps=["lower"], root="")
@example(raw="/API/v1/../x", steps=["lower"], root="")
@example(raw="/\\\\/../weather\\..", steps=["resolve", "turn slashes"], root="")
@example(raw="/ends", steps=["trailing slash"], root="")
@settings(max_examples=400, deadline=None)
async def test_case_01_nor_in_an_app_that_tidies_paths_up_itself(
    raw: str, steps: list[str], root: str
) -> None:
    app = _tidying(_router(), steps)
    answer = await _unpaid(app, raw, "GET", root)
    assert SECRET not in answer.body, steps


def _lower_routes() -> Starlette:
    return Starlette(
        routes=[Route("/mixed/case", _secret), *(_router().routes)],
    )


@given(raw=spellings())
@settings(max_examples=200, deadline=None)
async def test_case_01_nor_in_an_app_that_tidies_everything(raw: str) -> None:
    steps = ["decode again", "turn slashes", "collapse", "resolve", "lower"]
    app = _tidying(_lower_routes(), steps)
    answer = await _unpaid(app, raw, "GET")
    assert SECRET not in answer.body


async def test_case_02_a_paywall_inside_a_mount_still_charges() -> None:
    inner = provider(_router(), PRICES)
    outer = Starlette(routes=[Mount("/shop", app=inner)])
    assert (await ask(outer, "/shop/secret")).status == 402
    assert (await ask(outer, "/shop/weather/paris")).status == 402


async def test_case_02_a_mounted_app_behind_a_paywall_is_priced_by_its_whole_path() -> None:
    shop = Starlette(routes=[Route("/secret", _secret)])
    app = provider(Starlette(routes=[Mount("/shop", app=shop)]), {"/shop/secret": "$0.001"})
    assert (await ask(app, "/shop/secret")).status == 402
    assert (await ask(app, "/proxy/shop/secret", root_path="/proxy")).status == 402


@pytest.mark.parametrize(
    "name",
    [
        b"x-http-method-override",
        b"x-http-method",
        b"x_http_method_override",
        b"x-http_method-override",
    ],
)
async def test_case_03_a_request_that_asks_for_another_verb_is_priced_for_it(name: bytes) -> None:
    app = provider(_router(), {"POST /secret": "$0.001"})
    assert (await ask(app, "/secret")).body == SECRET
    for verb in ("GET", "OPTIONS"):
        answer = await ask(app, "/secret", verb, headers=[(name, b"POST")])
        assert answer.status == 402


def test_a_rule_names_the_parameters_of_a_path() -> None:
    table = PriceTable({"GET /a/{city}/{rest:path}": "$1"})
    rule = table.find("GET", "/a/paris/x/y", b"", "")
    assert rule is not None
    assert rule.parameters("/a/paris/x/y", "") == {"city": "paris", "rest": "x/y"}
    assert rule.parameters("/api/a/paris/", "/api") == {"city": "paris", "rest": ""}
    assert rule.parameters("/A/paris/x", "") == {}


def test_a_parameter_that_stands_twice_is_no_pattern() -> None:
    with pytest.raises(ConfigurationError, match="x"):
        PriceTable({"/{x}/{x}": "$1"})
