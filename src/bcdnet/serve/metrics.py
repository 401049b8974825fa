"""What Prometheus may ask for."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One registry for each application, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "bcdnet_requests", "Answered requests.", ("path", "method", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "bcdnet_request_seconds", "From a request's head to its answer.", ("path",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.images = Counter("bcdnet_images", "Classified images.", ("model",), registry=self.registry)
        self.depth = Gauge(
            "bcdnet_queue_images", "Images that were taken in and not answered yet.", ("model",), registry=self.registry
        )
        self.batches = Histogram(
            "bcdnet_batch_images", "Images that ran at once.", ("model",),
            buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry,
        )  # fmt: skip
        self.run_seconds = Histogram(
            "bcdnet_batch_seconds", "One batch in the network.", ("model",), buckets=SECONDS, registry=self.registry
        )

    def watch_depth(self, model: str, depth: Callable[[], int]) -> None:
        """Read the depth of a model's queue whenever it is asked for."""
        self.depth.labels(model).set_function(depth)

    def render(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)
