"""The application: routes, health, metrics, page and how errors look."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, Request, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from bcdnet import __version__
from bcdnet.errors import BcdnetError
from bcdnet.machine import available_threads
from bcdnet.serve.api import Service, authorised, problem, problems, router
from bcdnet.serve.batcher import Batcher
from bcdnet.serve.docs import render
from bcdnet.serve.loaded import Loaded
from bcdnet.serve.metrics import CONTENT_TYPE, Metrics
from bcdnet.serve.refusal import RefusalError
from bcdnet.serve.schemas import Health
from bcdnet.serve.settings import Settings
from bcdnet.serve.shell import Shell
from bcdnet.serve.upload import Intake

PAGE = Path(__file__).parent / "page"
PATHS = frozenset({"/", "/v1/predict", "/v1/models", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"})
MIN_DRAIN_BYTES = 64 * 2**20
UNREADY = "the server is starting or shutting down"


def create_app(models: Sequence[Loaded], settings: Settings | None = None) -> FastAPI:
    """An ASGI application that serves the models, the first one by default.

    Its threads start and end with the application's lifespan. Raises BcdnetError without a model or with two of one
    name.
    """
    settings = settings or Settings()
    if not models:
        raise BcdnetError("there is no model to serve")
    names = [model.name for model in models]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BcdnetError(f"two models are called {twice[0]}; rename one of the files")
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batchers = {model.name: Batcher(model, settings, metrics) for model in models}
        threads = available_threads()
        with ThreadPoolExecutor(threads, thread_name_prefix="bcdnet-decode") as decoders:
            app.state.service = Service(batchers, decoders, max(2, threads // 2), settings, Intake(settings))
            app.state.ready = True
            yield
            app.state.ready = False
            for batcher in batchers.values():
                batcher.close()

    app = FastAPI(
        title="bcdnet",
        summary="Image classification by packed binary neural networks.",
        version=__version__,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to an address that a proxy in front may not know
        lifespan=lifespan,
    )
    app.state.ready = False
    guards = [] if settings.token is None else [Depends(authorised)]
    app.include_router(router, dependencies=guards)
    _add_operations(app, metrics, guards)
    _add_pages(app)
    _add_errors(app)
    app.add_middleware(Shell, metrics=metrics, paths=PATHS, drain_bytes=max(16 * settings.body_bytes, MIN_DRAIN_BYTES))
    return app


def _add_operations(app: FastAPI, metrics: Metrics, guards: Sequence[params.Depends]) -> None:
    @app.get("/healthz", tags=["operations"])
    async def healthz() -> Health:
        """The process lives."""
        return Health(status="ok")

    @app.get("/readyz", tags=["operations"], responses={503: problem(UNREADY)})
    async def readyz() -> Health:
        """The models are loaded, and the server is not shutting down."""
        if not app.state.ready:
            raise RefusalError(503, UNREADY, 1)
        return Health(status="ready")

    @app.get(
        "/metrics",
        tags=["operations"],
        response_class=Response,
        dependencies=guards,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(401)},
    )
    async def scrape() -> Response:
        """Prometheus: requests, latencies, depth of the queues, sizes of the batches, the process."""
        return Response(metrics.render(), media_type=CONTENT_TYPE)


def _add_pages(app: FastAPI) -> None:
    files = StaticFiles(directory=PAGE)

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render(app.openapi()))

    app.mount("/static", files)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RefusalError)
    async def refused(_request: Request, refusal: RefusalError) -> JSONResponse:
        return JSONResponse({"error": refusal.sentence}, refusal.status, refusal.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg'][:1].lower()}{first['msg'][1:]}"}, 422)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        sentences = {404: "there is nothing at this path", 405: f"{request.method} is not allowed here"}
        return JSONResponse({"error": sentences.get(error.status_code, error.detail)}, error.status_code, error.headers)
