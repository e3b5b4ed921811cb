"""Any parameter file at all is either accepted or refused in lines that a person can read."""

import copy
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.params import parse_params, render_params
from stages.lib.schema import Params

COMPLETE = yaml.safe_load(render_params(Params()))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([0, -1, 1e300, "1e-5", 10**400, "\x1b[2J", "; touch pwned #", "null", [], {}])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


class Plain(yaml.SafeDumper):
    """Writes no aliases, which are refused."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def dump(params: dict[str, Any]) -> str:
    return yaml.dump(params, Dumper=Plain, allow_unicode=True)


def paths(section: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The way to each value, sections included."""
    found: list[tuple[str, ...]] = []
    for key, value in section.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += paths(value, (*prefix, key))
    return found


def outcome(text: str) -> list[str]:
    """The lines of a refusal, none for an accepted file."""
    try:
        parse_params(text)
    except ValueError as error:
        return str(error).splitlines()
    return []


def assert_readable(lines: list[str]) -> None:
    assert all(line.strip() and line.isprintable() and len(line) < 1000 for line in lines), lines


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    assert_readable(outcome(text) or ["accepted"])


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(paths(COMPLETE)), values)
def test_any_value_in_any_place(path: tuple[str, ...], value: Any) -> None:
    params = copy.deepcopy(COMPLETE)
    place = params
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    lines = outcome(dump(params))
    assert_readable(lines)
    if lines:
        assert any(str(part) in line for line in lines for part in path), lines
    else:
        accepted = parse_params(dump(params))
        assert parse_params(render_params(accepted)) == accepted


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(paths(COMPLETE)), min_size=1, max_size=5, unique=True))
def test_missing_parameters_are_named_each_in_a_line(gone: list[tuple[str, ...]]) -> None:
    params = copy.deepcopy(COMPLETE)
    for path in sorted(gone, key=len, reverse=True):
        place = params
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]
    lines = outcome(dump(params))
    assert_readable(lines)
    topmost = {path for path in gone if not any(path[:i] in gone for i in range(1, len(path)))}
    for path in topmost:
        if "image_sizes" not in path[:-1]:
            assert any(line.startswith(f"{'.'.join(path)} is missing") for line in lines), (path, lines)
