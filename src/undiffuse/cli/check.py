"""check: what a data set holds."""

from undiffuse import config
from undiffuse.cli.options import CheckOptions
from undiffuse.cli.progress import show
from undiffuse.data.check import check_data
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.pipeline import build


def check(given: CheckOptions) -> None:
    sets = given.sets or []
    if wrong := next((text for text in sets if not text.startswith("data.")), None):
        raise UsageError(f"--set {wrong}: check knows the keys data.* only")
    wanted = config.changed(config.Config(), [*sets, f"data.source={given.source!r}"])
    found = check_data(build.data_spec(wanted), show)
    width = max(len(name) for name, _ in found.rows)
    for name, told in found.rows:
        print(f"{name.ljust(width)}  {told}")
    if found.trouble:
        raise UndiffuseError("; ".join(found.trouble))
    print("no trouble found")
