"""check: what a data set holds."""

from dataclasses import replace

from undiffuse import config
from undiffuse.cli import tell
from undiffuse.cli.options import CheckOptions
from undiffuse.cli.progress import show
from undiffuse.data.check import check_data
from undiffuse.data.prepare import dataset
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files.writing import check_file, whole
from undiffuse.pipeline import build
from undiffuse.viz.contact import contact_sheet
from undiffuse.viz.of_model import save_figure


def check(given: CheckOptions) -> None:
    sets = given.sets or []
    if wrong := next((text for text in sets if not text.startswith("data.")), None):
        raise UsageError(f"--set {wrong}: check knows the keys data.* only")
    wanted = config.changed(config.Config(), sets).replaced({"data.source": given.source})
    spec = build.data_spec(wanted)
    if given.out is not None:
        check_file(given.out)
    found = check_data(spec, show)
    width = max(len(name) for name, _ in found.rows)
    for name, told in found.rows:
        tell(f"{name.ljust(width)}  {told}")
    if found.readable and (given.out is not None or wanted.data.classes is not None):
        data = dataset(replace(spec, bad="skip"))
        if wanted.data.classes is not None:
            data = data.restricted(wanted.data.classes)
            tell(f"{'of these classes'.ljust(width)}  {data.notes[-1]}")
        if given.out is not None:
            with whole(given.out) as aside:
                save_figure(contact_sheet(data), aside)
            tell(f"sheet: {given.out}")
    if found.left_out:
        tell(f"{'left out'.ljust(width)}  {found.left_out}")
    if len(found.trouble) == 1:
        raise UndiffuseError(found.trouble[0])
    for trouble in found.trouble:
        tell(f"{'trouble'.ljust(width)}  {trouble}")
    if found.trouble:
        raise UndiffuseError(f"{len(found.trouble)} kinds of trouble, told above; first: {found.trouble[0]}")
    tell("no other trouble found" if found.left_out else "no trouble found")
