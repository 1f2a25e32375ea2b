"""The wheel is whole: what runs from the source tree runs from an installation."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import undiffuse as ud

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_wheel_holds_the_code_the_recipes_the_report_template_and_the_licences(wheel):
    inside = set(wheel.namelist())
    source = ROOT / "src"
    ours = {
        str(p.relative_to(source))
        for p in (source / "undiffuse").rglob("*")
        if p.suffix in (".py", ".yaml", ".template", ".typed", ".c", ".h", ".safetensors")
    }
    assert len(ours) > 40
    assert ours <= inside
    assert not [name for name in inside if name.startswith(("tests", "tools"))]
    assert {name.rpartition("/")[2] for name in inside if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_the_page_of_the_registry_has_no_relative_links(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    page = wheel.read(name).decode()
    assert page.count("](https://") > 30
    assert re.findall(r"\]\((?!https?://|#)[^)]*\)", page) == []
    assert f"/v{ud.__version__}/docs/images/" in page


def test_the_version_is_said_alike_everywhere(wheel):
    assert f"\nversion: {ud.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## {re.escape(ud.__version__)} \(", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert Path(wheel.filename).name.startswith(f"undiffuse-{ud.__version__}-")


# -- the public names -------------------------------------------------------------------------------------------------


def test_what_type_checkers_see_is_what_there_is():
    """The imports under TYPE_CHECKING, the table of homes and `__all__` name the same things."""
    tree = ast.parse((ROOT / "src/undiffuse/__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname: f"{node.module}.{alias.name}" for node in block.body for alias in node.names}
    homes = {name: f"{home.partition(':')[0]}.{home.partition(':')[2] or name}" for name, home in ud._HOMES.items()}
    assert seen == homes | ud._MODULES
    assert sorted([*seen, "__version__"]) == sorted(ud.__all__) == dir(ud)
    for name in ud.__all__:
        assert getattr(ud, name) is not None


CLIENT = """
import undiffuse as ud

pipe = ud.Pipeline.load("digits")
print(pipe.sample(4, seed=1).shape)
found: ud.Evaluation = ud.evaluate(pipe, n=100, seeds=[0], metrics=["frechet"])
print(found.metrics["frechet"].value)
"""
PLANTED = """
pipe.sample(4, sead=1)
ud.evaluate(pipe, metric="frechet")
"""


def test_a_type_checker_finds_a_wrong_keyword_in_a_user_s_script(tmp_path):
    script = tmp_path / "client.py"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(script)]
    command += ["--config-file=", "--cache-dir", str(ROOT / ".mypy_cache" / "client")]

    script.write_text(CLIENT + PLANTED)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MYPYPATH": str(ROOT / "src")})
    assert not done.stderr
    first, second = (line for line in done.stdout.splitlines() if ": error: " in line)  # and none in the rest
    assert "client.py:9: error: Unexpected keyword argument" in first and "sead" in first
    assert "client.py:10: error: Unexpected keyword argument" in second and "metric" in second
