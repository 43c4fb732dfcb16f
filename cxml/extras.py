"""Optional packages: the extra of cxml that installs each, and the error if one is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from cxml.errors import ConfigError

EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("deepspeed", "ray", "sklearn", "pandas", "tensorboardX"),
    "plots": ("jinja2", "matplotlib"),
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "s3": ("s3fs",),
    "similar": ("faiss",),
    "neighbours": ("faiss",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "serve": ("fastapi", "prometheus_client", "uvicorn", "httptools", "starlette"),
    "serve-ray": ("ray",),
    "quickstart": ("omikuji", "simple_icd_10_cm"),
}
"""The modules that each extra of pyproject.toml installs. A module of several extras belongs to the first."""


def is_installed(module: str) -> bool:
    """Whether a module is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
    except ValueError:  # it is loaded without a module spec
        return True


def require(field: str, value: object, *modules: str, extra: str = "", otherwise: str = "") -> None:
    """Check that the modules that `field = value` needs are installed.

    Args:
        field: the option, config field or function that needs them.
        value: value of the field.
        modules: names of top-level modules.
        extra: the extra to install; empty for those of the missing modules.
        otherwise: alternative to the installation, such as "set it to false".

    Raises:
        ConfigError: a module is missing; names the `pip install` command.
    """
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        verb = "is not installed" if len(missing) == 1 else "are not installed"
        extras = extra or ",".join(dict.fromkeys(map(_extra_of, missing)))
        instead = f", or {otherwise}" if otherwise else ""
        names = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        raise ConfigError(field, value, f"{names} {verb}", f"Run: {_install(extras)}{instead}.")


@contextmanager
def named() -> Iterator[None]:
    """Within this context, a failed import of an optional module raises an error that names its extra.

    Raises:
        ConfigError: an import of a module of `EXTRAS` failed.
    """
    try:
        yield
    except ImportError as error:
        cure = remedy(error)
        if not cure:
            raise
        is_missing = isinstance(error, ModuleNotFoundError)
        problem = "is not installed" if is_missing else f"cannot be imported ({error})"
        raise ConfigError("package", _module_of(error), problem, cure) from error


def remedy(error: ImportError) -> str:
    """The install command for a failed import if it belongs to an extra; else empty."""
    module = _module_of(error)
    return f"Run: {_install(_extra_of(module))}." if any(module in modules for modules in EXTRAS.values()) else ""


def _module_of(error: ImportError) -> str:
    """The top-level module of a failed import; fsspec's own `ImportError` has it as its cause."""
    cause = error.__cause__
    name = error.name or (cause.name if isinstance(cause, ImportError) else None)
    return (name or "").partition(".")[0]


def _extra_of(module: str) -> str:
    return next(extra for extra, modules in EXTRAS.items() if module in modules)


def _install(extras: str) -> str:
    return f"pip install 'cxml[{extras}]'"
