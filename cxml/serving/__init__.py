"""A model behind HTTP: JSON in, labels out, and a page to try it on.

    connections (deadlines and limits; uvicorn's) -> api (FastAPI), whose guard checks a request before its body is read
    -> the model that is served now (models) -> an engine -> batching (requests that come together are predicted
    together) -> cxml.Predictor

There are two engines: `local_engine` runs the model in a thread of the server's process, `ray_engine` in replicas on a
Ray cluster. `front` is the HTTP server's thread. `running` starts and ends all of it, and loads the model again when
told to. Only `ray_engine` imports Ray.
"""

from cxml.serving.options import ServeOptions

__all__ = ["ServeOptions"]
