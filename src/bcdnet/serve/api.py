"""The routes under /v1."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from starlette.requests import ClientDisconnect

from bcdnet.errors import DataError, ImageTooLargeError
from bcdnet.runtime.preprocess import crop_box, open_image, to_input
from bcdnet.serve.batcher import Answer, Array, Batcher
from bcdnet.serve.loaded import Loaded
from bcdnet.serve.refusal import RefusalError
from bcdnet.serve.schemas import (
    ClassScore,
    Crop,
    ImageResult,
    Limits,
    Milliseconds,
    ModelInfo,
    ModelsResponse,
    PredictResponse,
    Problem,
)
from bcdnet.serve.settings import Settings
from bcdnet.serve.upload import MULTIPART, RAW_TYPES, Upload, read_images

FORMATS = ("JPEG", "PNG", "WEBP")
MOST_CLASSES = 1000


@dataclass(frozen=True, eq=False)
class Service:
    """What the routes share: the models by name, the threads that decode, and the limits."""

    batchers: dict[str, Batcher]
    decoders: ThreadPoolExecutor
    settings: Settings


def authorised(request: Request) -> None:
    """Raise RefusalError (401) without the token, if one is wanted. Comparing takes the same time for any guess."""
    token = request.app.state.service.settings.token
    if token is None:
        return
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token}".encode()):
        refusal = RefusalError(401, "this server wants a token: send it as Authorization: Bearer TOKEN")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        raise refusal


EXAMPLES = {
    400: "cat.jpg: is not a JPEG, PNG or WEBP image, or is damaged",
    401: "this server wants a token: send it as Authorization: Bearer TOKEN",
    404: "no model is called 'bcdnet_c'; there are bcdnet_a, bcdnet_b",
    408: "the request took longer than 30 seconds",
    413: "cat.jpg: has 9000 x 6000 pixels; at most 25,000,000 are allowed",
    415: f"the body must be {MULTIPART} or one of {', '.join(RAW_TYPES)}",
    422: "topk: input should be greater than or equal to 1",
    503: "the server has more images waiting than it takes in; try again in a second",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that refuses with these statuses."""
    return {
        status: {"model": Problem, "content": {"application/json": {"example": {"error": EXAMPLES[status]}}}}
        for status in statuses
    }


router = APIRouter(prefix="/v1", dependencies=[Depends(authorised)], tags=["v1"])
_BINARY = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        MULTIPART: {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "array", "minItems": 1, "items": _BINARY}},
            }
        },
        **{kind: {"schema": _BINARY} for kind in RAW_TYPES},
    },
}


@router.get("/models", responses=problems(401))
async def models(request: Request) -> ModelsResponse:
    """The served models, what they cost, and the limits of a request."""
    service: Service = request.app.state.service
    settings = service.settings
    return ModelsResponse(
        models=[_describe(batcher.model) for batcher in service.batchers.values()],
        limits=Limits(
            body_bytes=settings.body_bytes, pixels=settings.pixels, images=settings.images, seconds=settings.seconds
        ),
    )


@router.post(
    "/predict", responses=problems(400, 401, 404, 408, 413, 415, 422, 503), openapi_extra={"requestBody": _BODY}
)
async def predict(
    request: Request,
    topk: Annotated[int, Query(ge=1, le=MOST_CLASSES, description="How many classes for each image.")] = 5,
    cam: Annotated[bool, Query(description="Add each class's activation map.")] = False,
    model: Annotated[str | None, Query(description="A name from /v1/models; by default the first.")] = None,
) -> PredictResponse:
    """Classify one or many images: the raw bytes of one as the body, or files in a multipart body.

    JPEG, PNG or WebP, turned upright as the EXIF data say. If one image of a request cannot be read, the request is
    refused and the error names it.

        curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:8000/v1/predict?topk=3'
        curl -F image=@cat.jpg -F image=@dog.jpg http://127.0.0.1:8000/v1/predict
    """
    service: Service = request.app.state.service
    batcher = _choose(service, model)
    if cam and batcher.model.session.cam_problem is not None:
        raise RefusalError(400, batcher.model.session.cam_problem)
    held = 0
    try:
        async with asyncio.timeout(service.settings.seconds):
            # One place before the body is read, so that waiting bodies are bounded too.
            batcher.admit(1)
            held = 1
            uploads = await read_images(request, service.settings)
            batcher.admit(len(uploads) - 1)
            held = len(uploads)
            results = await _together([_classify(service, batcher, upload, topk, cam) for upload in uploads])
    except TimeoutError:
        raise RefusalError(408, f"the request took longer than {service.settings.seconds:g} seconds") from None
    except ClientDisconnect:
        raise RefusalError(400, "the client left before its body had arrived") from None
    finally:
        batcher.release(held)
    return PredictResponse(model=batcher.model.name, images=results)


def _choose(service: Service, name: str | None) -> Batcher:
    if name is None:
        return next(iter(service.batchers.values()))
    if name not in service.batchers:
        raise RefusalError(404, f"no model is called {name[:100]!r}; there are {', '.join(service.batchers)}")
    return service.batchers[name]


async def _together(parts: list[Coroutine[Any, Any, ImageResult]]) -> list[ImageResult]:
    """All results in order; the first failure ends the rest."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _classify(service: Service, batcher: Batcher, upload: Upload, topk: int, cam: bool) -> ImageResult:
    begin = perf_counter()
    loop = asyncio.get_running_loop()
    try:
        x, (width, height) = await loop.run_in_executor(
            service.decoders, _decode, upload, batcher.model, service.settings
        )
    except ImageTooLargeError as error:
        raise RefusalError(413, str(error)) from None
    except DataError as error:
        raise RefusalError(400, str(error)) from None
    decoded = perf_counter() - begin
    answer = await asyncio.wrap_future(batcher.submit(x, topk, cam))
    left, top, across, down = crop_box(width, height, batcher.model.preprocess)
    return ImageResult(
        name=upload.name,
        width=width,
        height=height,
        crop=Crop(left=left, top=top, width=across, height=down),
        predictions=_scores(answer),
        batch=answer.batch,
        milliseconds=Milliseconds(decode=_ms(decoded), wait=_ms(answer.waited), run=_ms(answer.ran)),
    )


def _decode(upload: Upload, model: Loaded, settings: Settings) -> tuple[Array, tuple[int, int]]:
    image = open_image(upload.data, upload.name, max_pixels=settings.pixels, formats=FORMATS)
    return to_input(image, model.preprocess, upload.name), image.size


def _scores(answer: Answer) -> list[ClassScore]:
    maps: Sequence[Array | None] = answer.maps or [None] * len(answer.predictions)
    return [
        ClassScore(
            label=best.label,
            index=best.index,
            probability=best.probability,
            cam=None if heat is None else np.round(heat.astype(np.float64), 5).tolist(),
        )
        for best, heat in zip(answer.predictions, maps, strict=True)
    ]


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def _describe(model: Loaded) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        input=list(model.preprocess.input_size),
        labels=list(model.labels),
        cam=model.session.cam_problem is None,
        target=model.session.target,
        threads=model.session.threads,
        **asdict(model.facts),
    )
