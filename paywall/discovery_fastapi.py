"""A FastAPI app's own OpenAPI document, with the prices of its paywall in it."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette

Describe = Callable[[dict[str, Any]], dict[str, Any]]


def install(app: Starlette, describe: Describe) -> None:
    """From now on `/openapi.json`, and the pages made from it, say what things cost."""
    if not isinstance(app, FastAPI):
        return
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        return describe(plain())

    app.openapi = openapi  # type: ignore[method-assign]
