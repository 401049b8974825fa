"""Understanding a network: what it costs."""

from bcdnet.analysis.count import Counts, Layer, count

__all__ = ["Counts", "Layer", "count"]
