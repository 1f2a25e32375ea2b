"""The YAML of configurations: safe YAML 1.1 in which 1e-3 is a number, without anchors, of a bounded size."""

import re
from typing import Any

import yaml

# PyYAML lets its constructors' own errors out: `!!bool x` is a KeyError, 5,000 digits are a ValueError.
_BAD = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


MOST_YAML = 1 << 20  # bytes: a thousand times what a recipe has, and read within seconds


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text, which nobody means; here it is a number. A key that stands twice is refused: the
    first would be forgotten. So are anchors: a few lines of them can stand for more than a machine holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if getattr(self.peek_event(), "anchor", None) is not None:  # type: ignore[no-untyped-call]
            raise ValueError("anchors (&) and aliases (*) are not read here; write the values out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise ValueError(f"'{key}' stands twice, the first time near line {node.start_mark.line + 1}")
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Knows the same, so a name like 1e3 is written in quotes."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), "-+0123456789"
    )


_Dumper.add_representer(tuple, _Dumper.represent_list)


def parsed(text: str) -> Any:
    """What the text says; ValueError, in one line, if it is not YAML, or longer than `MOST_YAML`."""
    if len(text) > MOST_YAML:
        raise ValueError(f"{len(text):,} letters, and at most {MOST_YAML:,} are read")
    try:
        return yaml.load(text, _Loader)
    except _BAD as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error


def written(value: Any) -> str:
    """The text that `parsed` reads back, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None)
