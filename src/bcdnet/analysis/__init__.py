"""Understanding a network: what it costs; in modules of their own, what binarisation, training and context do to it."""

from bcdnet.analysis.count import Counts, Layer, count

__all__ = ["Counts", "Layer", "count"]
