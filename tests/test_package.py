"""The wheel is whole: what runs from the source tree runs from an installation."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_the_code_the_recipes_and_the_report_template(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    ours = {
        str(p.relative_to(source))
        for p in (source / "undiffuse").rglob("*")
        if p.suffix in (".py", ".yaml", ".template")
    }
    assert len(ours) > 40
    assert ours <= inside
    assert not [name for name in inside if name.startswith("tests")]
