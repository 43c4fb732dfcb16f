"""Serve a model over HTTP: JSON in, labels out, and a web page to try it.

Input: HTTP requests.

1. `connections` (uvicorn) applies deadlines and limits to connections.
2. `api` (FastAPI) checks a request before it reads the body (`guard`).
3. `models` holds the currently served model. Its engine runs the model in a thread of the server's process
   (`local_engine`) or in replicas on a Ray cluster (`ray_engine`).
4. `batching` predicts concurrent requests together with `cxml.Predictor`.

Output: labels as JSON.

`http_server` runs the HTTP server in a thread. `running` starts, stops and reloads all of it. Only `ray_engine` imports
Ray.
"""

from cxml.serving.options import ServeOptions

__all__ = ["ServeOptions"]
