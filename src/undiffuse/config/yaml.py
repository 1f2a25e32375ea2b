"""The YAML of configurations: safe YAML 1.1 in which 1e-3 is a number."""

import re
from typing import Any

import yaml

# PyYAML lets its constructors' own errors out: `!!bool x` is a KeyError, 5,000 digits are a ValueError.
_BAD = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text, which nobody means; here it is a number. A key that stands twice is refused: the
    first would be forgotten."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"'{twice}' stands twice, the first time near line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Knows the same, so a name like 1e3 is written in quotes."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), "-+0123456789"
    )


_Dumper.add_representer(tuple, _Dumper.represent_list)


def parsed(text: str) -> Any:
    """What the text says; ValueError, in one line, if it is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except _BAD as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error


def written(value: Any) -> str:
    """The text that `parsed` reads back, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None)
