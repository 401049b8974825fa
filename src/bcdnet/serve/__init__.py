"""Packed models behind HTTP: an API, metrics and a page. FastAPI on uvicorn; never torch."""

from bcdnet.serve.app import create_app
from bcdnet.serve.loaded import Loaded, load
from bcdnet.serve.settings import Settings

__all__ = ["Loaded", "Settings", "create_app", "load"]
