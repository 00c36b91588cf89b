"""GET /: the page for people."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

__all__ = ["router"]

router = APIRouter()


@router.get("/", include_in_schema=False)
async def home() -> HTMLResponse:
    """The merged table and the shards' timeline, live."""
    return HTMLResponse(_page(), headers={"Cache-Control": "no-cache"})


@cache
def _page() -> bytes:
    return files("labkit.api").joinpath("page.html").read_bytes()
