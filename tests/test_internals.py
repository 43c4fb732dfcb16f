"""The private parts of other libraries that cxml uses: all are there, and one module per library uses them."""

import ast
import importlib
import importlib.metadata
import inspect
import re
from pathlib import Path

import pytest

import cxml

SOURCES = Path(cxml.__file__).parent
LIBRARIES = ("deepspeed", "numba", "ray", "torch", "transformers")
PRIVATE_MODULES = re.compile(
    r"((torch|ray|numba|transformers)\b.*\._\w+|torch\._\w+.*|numba\.core\..*|deepspeed\.runtime\..*)"
)
NAMES = [
    (library, name) for library in LIBRARIES for name in importlib.import_module(f"cxml.internals.{library}").NAMES
]


@pytest.mark.parametrize(("library", "name"), NAMES)
def test_a_private_name_is_still_in_the_installed_version(library, name):
    module = importlib.import_module(f"cxml.internals.{library}")
    installed = importlib.metadata.version(library)
    found = _mentions(*name.split(":")) if ":" in name else _resolves(name)
    assert found, (
        f"{library} {installed} has no {name}, last seen in {library} {module.SEEN_IN}. Look up what took its "
        f"place, and change cxml/internals/{library}.py alone."
    )


def test_no_other_module_uses_private_parts_of_these_libraries():
    files = [file for file in SOURCES.rglob("*.py") if file.parent.name != "internals"]
    assert len(files) > 200
    assert {str(file.relative_to(SOURCES)): uses for file in files if (uses := _private_uses(file))} == {}


def _resolves(name):
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def _mentions(owner, attribute):
    """Whether the source of a module, or of a class and those it is made of, sets an attribute of its instances."""
    try:
        sources = [inspect.getsource(importlib.import_module(owner))]
    except ModuleNotFoundError:
        module, _, name = owner.rpartition(".")
        kinds = getattr(importlib.import_module(module), name).__mro__
        sources = [inspect.getsource(kind) for kind in kinds if kind.__module__.startswith(owner.split(".")[0])]
    return any(re.search(rf"\b{attribute}\b", source) for source in sources)


def _private_uses(file):
    """Imports of private modules, and private attributes of modules of these libraries, in one source file."""
    tree = ast.parse(file.read_text())
    modules, uses = set(LIBRARIES), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            uses += [each.name for each in node.names if PRIVATE_MODULES.fullmatch(each.name)]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
            names = [f"{node.module}.{each.name}" for each in node.names]
            uses += [name for name in names if PRIVATE_MODULES.fullmatch(name)]
            modules |= {each.asname or each.name for each in node.names if each.name.islower()}
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in modules:
                uses.append(ast.unparse(node))
    return uses
