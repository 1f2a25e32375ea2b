"""Build what is published, and refuse what is not ready.

    python tools/release.py --check    build dist/ and check it: metadata, contents, sdist and wheel agree
    python tools/release.py            that; all is committed, the changelog is signed off, addresses answer: tag

Needs `build`, `twine`, gcc and an environment with undiffuse.
Publishing is the tag's work (.github/workflows/release.yml).
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "src/undiffuse/__init__.py").read_text("utf-8"), re.M)[1]  # type: ignore[index]
WANTED = (
    "undiffuse/py.typed",
    "undiffuse/models/digits/README.md",
    "undiffuse/native/winograd.c",
    "x86-64-v3-",
    "/licenses/NOTICE",
)


def main(arguments: list[str]) -> None:
    _build()
    _check_built()
    if arguments == ["--check"]:
        return
    _check_ready()
    _run("git", "tag", "--annotate", f"v{VERSION}", "--message", f"undiffuse {VERSION}")
    print(f"tagged v{VERSION}; push it to publish: git push origin v{VERSION}")


def _run(*command: str, folder: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _build() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    _run(sys.executable, str(ROOT / "tools" / "prebuild.py"))
    _run(sys.executable, "-m", "build", "--sdist", "--wheel", "--outdir", str(DIST))


def _check_built() -> None:
    sdist, wheel = next(DIST.glob("*.tar.gz")), next(DIST.glob("*.whl"))
    _run(sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel))
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (source,) = Path(folder).iterdir()
        _run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, str(source))
        again = next(Path(folder).glob("*.whl"))
        if _contents(again) != _contents(wheel):
            sys.exit(f"{sdist.name} builds another wheel than the checkout does")
    names = _contents(wheel)
    if missing := [want for want in WANTED if not any(want in name for name in names)]:
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}")
    for path in (sdist, wheel):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}  {path.stat().st_size / 2**20:.1f} MiB  sha256 {digest}")


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _check_ready() -> None:
    if _run("git", "status", "--porcelain"):
        sys.exit("there are uncommitted changes")
    if not re.search(
        rf"^## {re.escape(VERSION)} \(\d{{4}}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M
    ):
        sys.exit(f"CHANGELOG.md has no line '## {VERSION} (YYYY-MM-DD)'")
    if f"\nversion: {VERSION}\n" not in (ROOT / "CITATION.cff").read_text("utf-8"):
        sys.exit(f"CITATION.cff is not of version {VERSION}")
    for address in PROJECT["urls"].values():
        try:
            urllib.request.urlopen(address, timeout=20).close()
        except OSError as error:
            sys.exit(f"{address} (pyproject.toml, project.urls) does not answer: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
