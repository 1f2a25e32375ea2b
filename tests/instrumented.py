"""A run of one case of each test in which every function of the package checks its types and shapes when it is entered:

    PYTHONPATH=tests python -m pytest -p instrumented tests/diffusion

It fails if a wrong shape is not refused, and, with `--every-shape`, if a function that names one is never entered.
"""

import ast
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from beartype import beartype
from hypothesis import settings
from jaxtyping import TypeCheckError, install_import_hook

HOUSE = Path(__file__).parent.parent / "src" / "undiffuse"
OUTER = {"cli", "evaluation"}  # rooms that hand on what those below check
SHAPELESS = {"Callable", "Tensor", "Watch", "unwatched", "watch_items"}  # of what undiffuse.shapes has
ENTERED: set[str] = set()


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype's check, and a note that the function was entered."""
    check, name = beartype(function), f"{function.__module__}.{function.__qualname__}"

    @wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        ENTERED.add(name)
        return check(*args, **kwargs)

    return noted


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-shape", action="store_true", help="fail unless every function that names one is entered")


def pytest_load_initial_conftests() -> None:
    """Before anything imports the package."""
    install_import_hook("undiffuse", "instrumented.checked")


def pytest_configure() -> None:
    settings.register_profile("instrumented", derandomize=True, deadline=None, max_examples=2)
    settings.load_profile("instrumented")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One case of each, and none of those that are for bare runs only."""
    first = {(item.path, getattr(item, "originalname", item.name)): item for item in reversed(items)}
    items[:] = [item for item in first.values() if not item.get_closest_marker("bare")][::-1]


def pytest_sessionfinish(session: pytest.Session) -> None:
    never = sorted(set(shaped()) - ENTERED) if session.config.getoption("--every-shape") else []
    wrong = [f"never entered: {name}" for name in never]
    if not refuses_a_wrong_shape():
        wrong.append("a wrong shape was not refused")
    print("", *wrong, sep="\n")
    if wrong:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def refuses_a_wrong_shape() -> bool:
    import torch

    from undiffuse.images import from_levels

    try:
        from_levels(torch.zeros(2, 3, dtype=torch.uint8))
    except TypeCheckError:
        return True
    return False


# -- which functions name a shape, by the text of their files ---------------------------------------------------------


def shaped() -> Iterator[str]:
    for path in sorted(path for path in HOUSE.rglob("*.py") if path.relative_to(HOUSE).parts[0] not in OUTER):
        module = ".".join(("undiffuse", *path.relative_to(HOUSE).with_suffix("").parts)).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        shapes = shapes_imported(tree)
        for name, annotations in functions(tree):
            if any(part.id in shapes for one in annotations for part in ast.walk(one) if isinstance(part, ast.Name)):
                yield f"{module}.{name}"


def shapes_imported(tree: ast.Module) -> set[str]:
    froms = (node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "undiffuse.shapes")
    return {alias.name for node in froms for alias in node.names} - SHAPELESS


def functions(inside: ast.AST, above: str = "") -> Iterator[tuple[str, list[ast.expr]]]:
    """Name and annotations of every function with a body, and of every dataclass's `__init__`."""
    for node in ast.iter_child_nodes(inside):
        if isinstance(node, ast.ClassDef):
            if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
                yield f"{above}{node.name}.__init__", [n.annotation for n in node.body if isinstance(n, ast.AnnAssign)]
            yield from functions(node, f"{above}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            said = (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) for n in node.body)
            if not all(said):  # there is more than a docstring or an ellipsis
                given = [n.annotation for n in ast.walk(node.args) if isinstance(n, ast.arg)]
                yield f"{above}{node.name}", [n for n in (*given, node.returns) if n is not None]
            yield from functions(node, f"{above}{node.name}.<locals>.")
        else:
            yield from functions(node, above)
