"""The entries of a YAML file as flags of the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import yaml

from ..files import read_text
from .arguments import MAY_BE_NONE

_NULL = "tag:yaml.org,2002:null"


class _Loader(yaml.SafeLoader):
    """Takes `1e-5` for a number, as YAML 1.2 and JSON do."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def yaml_flags(path: str) -> list[str]:
    """The flags that `name: value` lines stand for; errors are `ValueError`, and `OSError` for an unreadable file.

    A value is taken as it is written, for its flag knows what it expects: the label `no` does not become False. Only
    within tables, which are passed on as JSON, values have YAML's types. An entry that is null counts as not given,
    unless None says something else than the default does.
    """
    loader = _Loader(read_text(path))
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise ValueError(f"`{path}` must hold `name: value` lines.")
        names = [str(name.value).replace("-", "_") for name, _ in root.value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"`{path}` gives `{twice}` twice: leave one of them out.")
        loader.flatten_mapping(root)
        return [flag for name, value in root.value for flag in _flags_of(loader, str(name.value), value)]
    except yaml.YAMLError as error:
        raise ValueError(f"`{path}` is not YAML: {_in_one_line(error)}.") from error
    finally:
        loader.dispose()


def _in_one_line(error: yaml.YAMLError) -> str:
    """Without the picture of the place, so that the last line of a message says what is wrong."""
    place = getattr(error, "problem_mark", None)
    return " ".join(str(error).split()) if place is None else f"line {place.line + 1}, {error.problem}"


def _flags_of(loader: _Loader, name: str, value: yaml.Node) -> Iterator[str]:
    if value.tag == _NULL:
        if name.replace("-", "_") in MAY_BE_NONE:
            yield f"--{name}=None"
    elif isinstance(value, yaml.ScalarNode):
        yield f"--{name}={value.value}"
    elif isinstance(value, yaml.MappingNode):
        yield f"--{name}={json.dumps(loader.construct_document(value), default=str)}"
    else:
        if not all(isinstance(item, yaml.ScalarNode) for item in value.value):
            raise ValueError(f"`{name}` must be a list of values, got lists or tables in it.")
        yield from (f"--{name}", *(item.value for item in value.value))


__all__ = ["yaml_flags"]
