"""The routes under /v1."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import ClientDisconnect

from bcdnet.decoded_images import open_image
from bcdnet.errors import DataError, ImageTooLargeError
from bcdnet.runtime.preprocess import crop_box, to_input
from bcdnet.serve.batcher import Answer, Array, Batcher, Submit
from bcdnet.serve.encoded import Reader, check_profiles, check_scans
from bcdnet.serve.loaded import Loaded
from bcdnet.serve.refusal import FULL, RefusalError
from bcdnet.serve.schemas import (
    ClassScore,
    Crop,
    ImageResult,
    Limits,
    Milliseconds,
    ModelsResponse,
    PredictResponse,
    Problem,
)
from bcdnet.serve.settings import Settings
from bcdnet.serve.shell import BROKEN
from bcdnet.serve.upload import MULTIPART, RAW_TYPES, Intake, Upload, read_images

FORMATS = ("JPEG", "PNG", "WEBP")
MOST_CLASSES = 1000
MOST_MAPS = 10  # of one image: to write more takes the event loop longer than others should wait


@dataclass(frozen=True, eq=False)
class Service:
    """What the routes share: the models by name, the threads that decode, the limits, and the bytes that are held.

    At most `share` images of one request are with the decoders at a time, so that others need not wait for all of it.
    """

    batchers: dict[str, Batcher]
    decoders: ThreadPoolExecutor
    share: int
    settings: Settings
    intake: Intake


BEARER = HTTPBearer(scheme_name="token", description="The token that the server was started with.", auto_error=False)


def authorised(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]) -> None:
    """Raise RefusalError (401) without the server's token. Comparing takes the same time for any guess."""
    guess = "" if given is None else given.credentials
    if not hmac.compare_digest(guess.encode("utf-8", "replace"), request.app.state.service.settings.token.encode()):
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
    500: BROKEN,
    503: FULL,
}


def problem(sentence: str) -> dict[str, Any]:
    """What OpenAPI says of a refusal, with its sentence as the example."""
    return {"model": Problem, "content": {"application/json": {"example": {"error": sentence}}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that refuses with these statuses."""
    return {status: problem(EXAMPLES[status]) for status in statuses}


router = APIRouter(prefix="/v1", tags=["v1"])
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
        models=[batcher.model.info for batcher in service.batchers.values()],
        limits=Limits(
            body_bytes=settings.body_bytes, pixels=settings.pixels, images=settings.images, seconds=settings.seconds
        ),
    )


@router.post(
    "/predict", responses=problems(400, 401, 404, 408, 413, 415, 422, 500, 503), openapi_extra={"requestBody": _BODY}
)
async def predict(
    request: Request,
    topk: Annotated[int, Query(ge=1, le=MOST_CLASSES, description="How many classes for each image.")] = 5,
    cam: Annotated[bool, Query(description=f"Add each class's activation map, of {MOST_MAPS} at most.")] = False,
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
    if cam and topk > MOST_MAPS:
        raise RefusalError(422, f"topk: at most {MOST_MAPS} with activation maps (cam), got {topk}")
    if cam and batcher.model.session.cam_problem is not None:
        raise RefusalError(400, batcher.model.session.cam_problem)
    batcher.check(1)  # a body that has no place need not come
    try:
        async with asyncio.timeout(service.settings.seconds):
            with service.intake.body() as count:
                uploads = await read_images(request, service.settings, count)
                # Only now, so that an upload that stalls takes no place, and no batch waits for it.
                with batcher.admit(len(uploads), topk, cam) as submit:
                    results = await _classify_all(request, batcher.model, uploads, submit)
    except TimeoutError:
        raise RefusalError(408, f"the request took longer than {service.settings.seconds:g} seconds") from None
    except ClientDisconnect:
        raise RefusalError(400, "the client left before its answer") from None
    except DataError as error:  # logits that are not finite
        raise RefusalError(500, str(error)) from None
    except MemoryError:
        raise RefusalError(503, "the server is short of memory; try again in a second", 1) from None
    return PredictResponse(model=batcher.model.name, images=results)


def _choose(service: Service, name: str | None) -> Batcher:
    if name is None:
        return next(iter(service.batchers.values()))
    if name not in service.batchers:
        raise RefusalError(404, f"no model is called {name[:100]!r}; there are {', '.join(service.batchers)}")
    return service.batchers[name]


async def _classify_all(request: Request, model: Loaded, uploads: list[Upload], submit: Submit) -> list[ImageResult]:
    """All results in order; the first failure ends the rest. Raises RefusalError, ClientDisconnect."""
    service: Service = request.app.state.service
    turns = asyncio.Semaphore(service.share)
    over = Event()
    gone = asyncio.ensure_future(request.receive())  # after the body nothing comes but the client's end

    async def classify(upload: Upload) -> ImageResult:
        async with turns:
            begin = perf_counter()
            x, size = await _decode(service, model, upload, over)
            decoded = perf_counter() - begin
        if gone.done():
            raise ClientDisconnect
        return _result(upload.name, size, model, decoded, await asyncio.wrap_future(submit(x)))

    tasks = [asyncio.ensure_future(classify(upload)) for upload in uploads]
    try:
        return await asyncio.gather(*tasks)
    finally:
        over.set()
        for task in (gone, *tasks):
            task.cancel()


async def _decode(service: Service, model: Loaded, upload: Upload, over: Event) -> tuple[Array, tuple[int, int]]:
    """The network's input and the (width, height) of the upright image. Raises RefusalError: 400, 413."""

    def decode() -> tuple[Array, tuple[int, int]]:
        check_scans(upload.data, upload.name)
        check_profiles(upload.data, upload.name)
        source = Reader(upload.data, over)
        image = open_image(source, upload.name, max_pixels=service.settings.pixels, formats=FORMATS)
        return to_input(image, model.preprocess, upload.name), image.size

    try:
        return await asyncio.get_running_loop().run_in_executor(service.decoders, decode)
    except ImageTooLargeError as error:
        raise RefusalError(413, str(error)) from None
    except DataError as error:
        raise RefusalError(400, str(error)) from None


def _result(name: str, size: tuple[int, int], model: Loaded, decoded: float, answer: Answer) -> ImageResult:
    left, top, across, down = crop_box(*size, model.preprocess)
    return ImageResult(
        name=name,
        width=size[0],
        height=size[1],
        crop=Crop(left=left, top=top, width=across, height=down),
        predictions=_scores(answer),
        batch=answer.batch,
        milliseconds=Milliseconds(decode=_ms(decoded), wait=_ms(answer.waited), run=_ms(answer.ran)),
    )


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
