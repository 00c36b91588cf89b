"""The OpenAPI document, and the page that shows it (Swagger UI, whose files are served here: no internet needed)."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from labkit.api.openapi import models
from labkit.api.openapi.examples import IDS, OfRows
from labkit.api.openapi.operations import QUERIES, REF, responses
from labkit.api.openapi.rows import example_rows, row_schema
from labkit.api.queries import openapi_parameters
from labkit.tables import SCHEMA, shown_type

__all__ = ["add_docs_page", "complete"]

_ASSETS = "/docs/assets"


def complete(document: dict[str, Any], table: pa.Schema | None = None) -> None:
    """Adds each operation's query parameters and responses, and the schemas of bodies, to the framework's document.

    `table` are the columns of rows, as far as they are known.
    """
    columns = SCHEMA if table is None else table
    told = [{"name": field.name, "type": shown_type(field.type)} for field in columns]
    rows = OfRows(told, example_rows(columns, IDS))
    # The framework does not see the parameters either: its parsing of a request takes longer than the read.
    for path, query in QUERIES.items():
        document["paths"][path]["get"]["parameters"] = openapi_parameters(query)
    # Not through the framework's `responses`, which drops nulls from examples.
    for path, described in responses(rows).items():
        document["paths"][path]["get"]["responses"] = {str(status): response for status, response in described.items()}
    bodies: list[type[BaseModel]] = [getattr(models, name) for name in models.__all__]
    _, schemas = models_json_schema([(model, "validation") for model in bodies], ref_template=REF)
    if table is not None:
        schemas["$defs"]["Row"] = row_schema(table)
    document["components"] = {"schemas": schemas["$defs"]}


def add_docs_page(app: FastAPI) -> None:
    """Adds GET /docs and its static files."""
    app.mount(_ASSETS, StaticFiles(directory=str(files("fastapi_offline").joinpath("static"))), name="assets")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = str(request.scope.get("root_path", "")).rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title}: API documentation",
            swagger_js_url=f"{root}{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_ASSETS}/favicon.png",
        )
