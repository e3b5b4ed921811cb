"""Read and write `params.yaml` and the presets.

Every stage calls `load_params` before it imports torch, so a mistake anywhere in the file stops the first stage and
not the third hour. A preset holds what differs from the defaults of the schema; `make params PRESET=cpu` writes the
complete `params.yaml` that DVC tracks. Nothing here may import torch.
"""

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stages.lib.schema import External, Params, Section
from stages.lib.stage import printable

PARAMS_FILE = Path("params.yaml")
MAX_BYTES = 100_000
MAX_DEPTH = 10


def parse_params(text: str, *, complete: bool = True) -> Params:
    """Check the text of a parameter file.

    Args:
        complete: Whether every parameter must be there; a preset leaves defaults out.

    Raises:
        ValueError: One line per problem: the parameter, what is allowed, what came.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"must have at most {MAX_BYTES:,} characters, got {len(text):,}")
    values = parse_yaml(text)
    if not isinstance(values, dict):
        raise ValueError(f"must hold sections such as data and train, got {type(values).__name__}")
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        missing = _missing(Params(), values) if complete else []
        raise ValueError("\n".join([*(_problem(details) for details in error.errors()), *missing])) from None
    if complete and (missing := _missing(Params(), values)):
        raise ValueError("\n".join(missing))
    return params


def parse_yaml(text: str) -> Any:
    """The values of a YAML text, which may have no aliases, no deep nesting and no key twice.

    Raises:
        ValueError: In one line, if it isn't that.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise ValueError(f"not valid YAML: {_printable(' '.join(str(error).split()))}") from None


def load_params(path: Path = PARAMS_FILE, *, complete: bool = True) -> Params:
    """Read and check a parameter file; on a mistake, print one line per problem and exit with 1."""
    try:
        return parse_params(path.read_text(encoding="utf-8"), complete=complete)
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}; run from the top of the repository")
    except ValueError as error:
        sys.exit("\n".join(f"{path}: {line}" for line in str(error).splitlines()))


def render_params(params: Section, *, indent: str = "") -> str:
    """The text of a complete parameter file, each parameter with what it means."""
    lines = []
    for name, field in type(params).model_fields.items():
        value = getattr(params, name)
        if isinstance(value, Section):
            lines += [f"{indent}{name}:", render_params(value, indent=f"{indent}  ")]
            continue
        plain = value if name == "image_sizes" else params.model_dump(mode="json", include={name})[name]
        text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000).removesuffix("...\n").strip()
        comment = f"  # {field.description}" if field.description else ""
        lines.append(f"{indent}{name}: {text}{comment}")
    return "\n".join(lines)


class _Loader(yaml.SafeLoader):
    """Refuses what a parameter file never needs: aliases, which can explode, deep nesting, and a key twice."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not allowed, got one in line {self.peek_event().start_mark.line + 1}")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"at most {MAX_DEPTH} levels are allowed, got more")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), keys[0])
            raise yaml.YAMLError(f"a key must stand once, got {twice!r} again near line {node.start_mark.line + 1}")
        return mapping


def _missing(section: Section, values: dict[str, Any], prefix: str = "") -> list[str]:
    """A line for each parameter of a section that `values` lack."""
    lines = []
    for name, default in section:
        if name not in values:
            lines.append(f"{prefix}{name} is missing; `make params PRESET=NAME` writes a complete file")
        elif isinstance(default, Section) and isinstance(values[name], dict):
            lines += _missing(default, values[name], f"{prefix}{name}.")
    return lines


def _problem(details: ErrorDetails) -> str:
    """One line for one of pydantic's error records."""
    path = [str(part) for part in details["loc"] if part != "[key]"]
    where, got = _printable(".".join(path)), details["input"]
    match details["type"]:
        case "extra_forbidden":
            section: Any = Params
            for part in path[:-1]:
                section = section.model_fields[part].annotation if path[0] != "external" else External
            near = difflib.get_close_matches(path[-1], section.model_fields, n=1, cutoff=0.0)
            return f"{where} is not a parameter; did you mean {near[0]}?"
        case "too_short":
            return f"{where} must have an entry, got none"
        case "value_error":
            message = str(details["ctx"]["error"])
            return f"{where}: {message}" if where and not message.startswith(where) else message
    shown = "a section" if isinstance(got, dict) else _printable(repr(got))
    return f"{where}: {details['msg'][0].lower()}{details['msg'][1:]}, got {shown}"


def _printable(text: str) -> str:
    """At most 200 characters, none of which a terminal would obey."""
    escaped = printable(text)
    return escaped if len(escaped) <= 200 else f"{escaped[:200]}…"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the complete parameter file of a preset.")
    parser.add_argument("preset", type=Path, help="such as presets/cpu.yaml")
    preset = parser.parse_args().preset
    about = preset.read_text(encoding="utf-8").partition("\n")[0] if preset.exists() else ""
    if about.startswith("#"):
        print(about)
    print(f"# `make params PRESET={preset.stem}` wrote this file.")
    print(render_params(load_params(preset, complete=False)))
