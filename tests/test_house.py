"""The house keeps its shape: small files, one name for one thing, rooms that stand in the maps."""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "src" / "undiffuse"
MODULES = sorted(HOUSE.rglob("*.py"))
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_LOOSE_MODULES, MOST_LEVELS = 300, 40, 10, 12

# A public name that stands at the top of two modules, and why it may.
TWICE = {
    "Data": "a section of the configuration, and a batch of data of any shape",
    "dataset": "of what is asked of a source, and of what a configuration asks",
    "evaluate": "what the library does, and the command that calls it",
    "frechet": "the distance of two sets of features, and the measure of samples that is made of it",
    "inception_score": "the score of probabilities, and the measure of samples that is made of it",
    "plot_noise": "the figure, and the command that draws it",
    "plot_schedules": "the figure, and the command that draws it",
    "plot_score": "the figure, and the command that draws it",
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_a_file_has_one_subject_and_a_function_one_thing_to_do(path):
    """At the wall, find the second subject and give it a room (CONTRIBUTING)."""
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            documented = ast.get_docstring(node) is not None
            documentation = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            lines = (node.end_lineno or 0) - node.lineno + 1 - documentation
            assert lines <= MOST_LINES_OF_A_FUNCTION, f"{node.name} has {lines} lines"


def public_names(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_one_name_means_one_thing():
    homes = defaultdict(set)
    for path in MODULES:
        for name in public_names(path):
            if not name.startswith("_"):
                homes[name].add(path)
    assert {name for name, paths in homes.items() if len(paths) > 1} == TWICE.keys()


def test_the_top_floor_holds_few_loose_modules_and_the_contract_few_levels():
    assert (
        len([path for path in HOUSE.glob("*.py") if path.stem.strip("_") not in ("init", "main")]) <= MOST_LOOSE_MODULES
    )
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert len(contract["layers"]) <= MOST_LEVELS and "ignore_imports" not in contract
    rooms = {room for level in contract["layers"] for room in level.split(" : ")}
    inside = {path.stem if path.is_file() else path.name for path in HOUSE.iterdir() if path.name[0] not in "._"}
    inside -= {"py"}  # py.typed
    assert inside - rooms == {"models", "recipes", "__pycache__"} & inside


SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs" / "figures").glob("*.py")])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_benchmarks_and_figures_use_what_a_user_has(path):
    """No private name of ours, and none that is gone: what a benchmark needs, the library offers."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("undiffuse"):
            for alias in node.names:
                assert not alias.name.startswith("_")
                if not hasattr(import_module(node.module), alias.name):
                    import_module(f"{node.module}.{alias.name}")
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            assert isinstance(node.value, ast.Name) and node.value.id == "self"


# -- the maps ---------------------------------------------------------------------------------------------------------

PAGES = [*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").glob("*.md") if path.name != "log.md")]
NAMED = re.compile(r"`((?:src|tests|docs|benchmarks)/[\w./*-]+|(?:[a-z_]+/)+[a-z_]+\.(?:py|c|h|template))`")


def test_every_room_stands_in_both_maps():
    rooms = {path.name for path in HOUSE.iterdir() if path.is_dir() and path.name[0] not in "._"}
    loose = {path.name for path in HOUSE.glob("*.py") if path.stem.strip("_") not in ("init", "main")}
    for page in (ROOT / "README.md", ROOT / "docs" / "design.md"):
        text = page.read_text()
        missing = [room for room in sorted(rooms) if f"{room}/" not in text] + [
            module for module in sorted(loose) if module not in text
        ]
        assert not missing, f"{page.name} does not tell of {missing}"


def test_the_map_names_every_module_of_every_room_and_no_other():
    """A row of docs/design.md: its room, then the files in it; sources and samplers stand by their folders."""
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", (ROOT / "docs" / "design.md").read_text(), re.M)
    found = {rooms: set(re.findall(r"`([a-z_]+\.py)`", told)) for rooms, told in rows}
    for rooms, named in found.items():
        if rooms.endswith("/`"):
            room = HOUSE / rooms.strip("`/")
            there = {path.name for path in room.rglob("*.py") if path.stem != "__init__"}
            own = {path.name for path in room.glob("*.py") if path.stem != "__init__"}
            assert own <= named <= there, f"{room.name}: {sorted(own ^ named)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_file_that_a_page_names_is_there(page):
    for name in NAMED.findall(page.read_text()):
        places = [ROOT / name, HOUSE / name]
        assert any(place.exists() or list(place.parent.glob(place.name)) for place in places), name
