"""The JSON of the API, as OpenAPI describes it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

EXAMPLE_PREDICTION: JsonDict = {"label": "tabby cat", "index": 281, "probability": 0.873, "cam": None}
EXAMPLE_IMAGE: JsonDict = {
    "name": "cat.jpg",
    "width": 1024,
    "height": 768,
    "crop": {"left": 0.18, "top": 0.0625, "width": 0.64, "height": 0.875},
    "predictions": [
        EXAMPLE_PREDICTION,
        EXAMPLE_PREDICTION | {"label": "tiger cat", "index": 282, "probability": 0.061},
    ],
    "batch": 3,
    "milliseconds": {"decode": 4.1, "wait": 0.3, "run": 6.2},
}


class Crop(BaseModel):
    """The part of the upright image that the network sees, as fractions of its width and height."""

    left: float
    top: float
    width: float
    height: float


class Milliseconds(BaseModel):
    """Where the time went: decoding and resizing, waiting for a batch, the network."""

    decode: float
    wait: float
    run: float


class ClassScore(BaseModel):
    """One class. `cam` is its class activation map over the crop, by rows: its mean is the logit less its bias."""

    label: str
    index: int
    probability: float = Field(ge=0, le=1)
    cam: list[list[float]] | None = None


class ImageResult(BaseModel):
    """One image of the request; width and height in pixels, upright. `batch` images ran at once."""

    name: str
    width: int
    height: int
    crop: Crop
    predictions: list[ClassScore]
    batch: int
    milliseconds: Milliseconds


class PredictResponse(BaseModel):
    """The images in the order of the request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "bcdnet_b", "images": [EXAMPLE_IMAGE]}]})

    model: str
    images: list[ImageResult]


EXAMPLE_MODEL: JsonDict = {
    "name": "bcdnet_b",
    "input": [3, 224, 224],
    "labels": ["tench", "goldfish"],
    "cam": True,
    "file_bytes": 4_900_000,
    "binary_weights": 34_000_000,
    "float_weights": 1_100_000,
    "binary_macs": 4_820_000_000,
    "float_macs": 12_000_000,
    "operations": 87_312_500,
    "target": "AVX3_DL",
    "threads": 2,
}
EXAMPLE_LIMITS: JsonDict = {"body_bytes": 16_000_000, "pixels": 25_000_000, "images": 16, "seconds": 30.0}


class ModelInfo(BaseModel):
    """A served model. Multiply-accumulates (MACs) are for one image; 64 one-bit MACs count as one operation."""

    name: str
    input: list[int]
    labels: list[str]
    cam: bool
    file_bytes: int
    binary_weights: int
    float_weights: int
    binary_macs: int
    float_macs: int
    operations: int
    target: str
    threads: int


class Limits(BaseModel):
    """What one request may hold, and how long it may take."""

    body_bytes: int
    pixels: int
    images: int
    seconds: float


class ModelsResponse(BaseModel):
    """All models, the one that is used by default first, and the limits of a request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"models": [EXAMPLE_MODEL], "limits": EXAMPLE_LIMITS}]})

    models: list[ModelInfo]
    limits: Limits


class Health(BaseModel):
    """Whether the process lives, or takes requests."""

    status: Literal["ok", "ready"]


class Problem(BaseModel):
    """What went wrong, in one sentence."""

    error: str = Field(description="The sentence.")
