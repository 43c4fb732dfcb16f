"""Serve a model over HTTP: JSON in, labels out, and a web page to try it.

    connections (uvicorn, with deadlines and limits) -> api (FastAPI), whose guard checks a request before its body is
    read -> the currently served model (models) -> an engine -> batching (predicts concurrent requests together)
    -> cxml.Predictor

There are two engines: `local_engine` runs the model in a thread of the server's process, `ray_engine` in replicas on a
Ray cluster. `front` is the thread of the HTTP server. `running` starts, stops and reloads all of it. Only `ray_engine`
imports Ray.
"""

from cxml.serving.options import ServeOptions

__all__ = ["ServeOptions"]
