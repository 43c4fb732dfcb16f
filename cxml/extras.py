"""Optional packages: which extra of cxml brings each, and the error that says so where one is missing."""

from __future__ import annotations

import importlib.util

from cxml.errors import ConfigError

EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("deepspeed", "ray", "sklearn", "pandas", "tensorboardX"),
    "plots": ("jinja2", "matplotlib"),
    "tensorboard": ("tensorboard",),
    "s3": ("s3fs",),
    "similar": ("faiss",),
    "serve": ("ray", "fastapi", "prometheus_client", "uvicorn", "starlette"),
    "quickstart": ("omikuji", "simple_icd_10_cm"),
}
"""The modules that each extra of pyproject.toml brings. A module of several extras belongs to the first."""


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
    except ValueError:  # it is in memory, without a record of where it came from
        return True


def require(field: str, value: object, *modules: str, extra: str = "", otherwise: str = "") -> None:
    """Refuse `field = value` where it needs modules that are not installed.

    Args:
        field: the option, config field or function that needs them.
        value: of the field.
        modules: names of modules at the top level.
        extra: the extra to install; empty: those that bring the missing modules.
        otherwise: what to do instead of installing it, such as "set it to false".

    Raises:
        ConfigError: a module is missing; names the `pip install` that brings it.
    """
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        verb = "is not installed" if len(missing) == 1 else "are not installed"
        extras = extra or ",".join(dict.fromkeys(map(_extra_of, missing)))
        remedy = f"Run: {_install(extras)}" + (f" or {otherwise}." if otherwise else "")
        raise ConfigError(field, value, f"{' and '.join(missing)} {verb}", remedy)


def refusal(error: ImportError) -> ConfigError | None:
    """The error that names the extra to install, where `error` is about a module of one; else None."""
    module = (error.name or "").partition(".")[0]
    if not any(module in modules for modules in EXTRAS.values()):
        return None
    is_missing = isinstance(error, ModuleNotFoundError)
    problem = "it is not installed" if is_missing else f"it cannot be imported ({error})"
    return ConfigError("package", module, problem, f"Run: {_install(_extra_of(module))}")


def _extra_of(module: str) -> str:
    return next(extra for extra, modules in EXTRAS.items() if module in modules)


def _install(extras: str) -> str:
    return f"pip install 'cxml[{extras}]'"
