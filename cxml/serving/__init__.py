"""A model behind HTTP: JSON in, labels out, and a page to try it on.

`connections` (deadlines, limits of connections; uvicorn's) -> `api` (FastAPI; knows no Ray), whose `guard` checks a
request before its body is read -> `service` (a Ray Serve deployment: requests that come together are predicted
together) -> `cxml.Predictor`. `running` starts and ends all of it in the command's own process.
"""

from cxml.serving.options import ServeOptions

__all__ = ["ServeOptions"]
