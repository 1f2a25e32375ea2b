"""Pictures inside a page: a figure as SVG that takes the page's colours and type, a file as a data URI."""

import base64
import io
import re
from html import escape
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from undiffuse.errors import UndiffuseError
from undiffuse.viz import style

# The page defines these variables once for light and once for dark.
PAGE_COLORS = {style.INK: "var(--ink)", style.MUTED: "var(--muted)", style.RULE: "var(--rule)"}


def inline_svg(figure: Figure, name: str) -> str:
    """A figure as an <svg> element: text stays text, inks become the page's variables, no address anywhere.

    name: what it shows, for a reader that speaks; also keeps ids apart from those of other figures on the page.
    """
    prefix = re.sub(r"\W+", "-", name.lower())
    text = io.StringIO()
    # Text as text follows the page's font, and stays sharp and selectable; the salt makes ids repeatable.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(
            text, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = text.getvalue()
    head, end, rest = svg[svg.index("<svg") :].partition(">")
    head = re.sub(r'\s(?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", head)  # a page supplies them
    rest = re.sub(r"<(metadata|style)\b.*?</\1>", "", rest, flags=re.DOTALL)  # the style would reach the whole page
    svg = _page_look(_own_ids(head + end + rest, prefix))
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1).strip()


def picture_uri(path: Path) -> str:
    """A PNG or GIF file as a data URI. Raises UndiffuseError if it is not a whole picture."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=("PNG", "GIF")) as picture:
            kind = str(picture.format).lower()
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UndiffuseError(f"{path}: not a readable PNG or GIF; delete it or make it again") from error
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _own_ids(svg: str, prefix: str) -> str:
    """Ids that something refers to get the prefix, the others go: a page must not hold an id twice."""
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', svg))

    def renamed(match: re.Match[str]) -> str:
        return f' id="{prefix}-{match[1]}"' if match[1] in used else ""

    svg = re.sub(r'\sid="([\w.-]+)"', renamed, svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def _page_look(svg: str) -> str:
    for color, variable in PAGE_COLORS.items():
        svg = svg.replace(color, variable)
    return re.sub(r"'DejaVu Sans'[^;\"]*", "var(--face)", svg)
