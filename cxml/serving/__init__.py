"""A model behind HTTP: JSON in, labels out, and a page to try it on.

HTTP -> Ray Serve's proxy (turns away what is too much) -> `api` (limits, token, metrics; knows no Ray)
     -> `service` (a Ray Serve deployment: requests that come together are predicted together) -> `cxml.Predictor`
"""

from cxml.serving.options import ServeOptions

__all__ = ["ServeOptions"]
