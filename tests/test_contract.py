"""dvc.yaml names what each stage really imports and reads: else DVC calls a stale result up to date."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from stages.lib.params import Params

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOT_TRACKED = {"stages/lib/params.py"}  # its values are


def module_file(name: str) -> Path | None:
    """The file of one of our modules; None for a package or another's module."""
    path = ROOT / f"{name.replace('.', '/')}.py"
    return path if name.startswith("stages.") and path.exists() else None


def imports(path: Path) -> Iterator[Path]:
    """Our modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from filter(None, map(module_file, names))


def closure(path: Path) -> set[str]:
    """`path` and all of our modules that it needs, as in dvc.yaml."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        if (current := waiting.pop()) not in seen:
            seen.add(current)
            waiting.extend(imports(current))
    return {file.relative_to(ROOT).as_posix() for file in seen} - NOT_TRACKED


def leaves(parameter: str) -> set[str]:
    """The single parameters that `section` or `section.name` stands for; the empty name stands for all."""
    model: Any = Params
    for part in filter(None, parameter.split(".")):
        model = model.model_fields[part].annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return {parameter}
    prefix = f"{parameter}." if parameter else ""
    return set().union(*(leaves(f"{prefix}{name}") for name in model.model_fields))


def parameters_read(path: Path) -> set[str]:
    """Single parameters that a stage reads, from the attributes of what `load_params()` returned."""
    tree = ast.parse(path.read_text())

    def chain(node: ast.expr) -> str | None:
        """`params.train` -> `train`, `load_params().prune` -> `prune`, anything else -> None."""
        match node:
            case ast.Call(func=ast.Name(id="load_params")):
                return ""
            case ast.Name(id=name):
                return aliases.get(name)
            case ast.Attribute(value=value, attr=attr):
                before = chain(value)
                return None if before is None else f"{before}.{attr}".removeprefix(".")
        return None

    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (read := chain(node.value)) is not None:
            aliases[node.targets[0].id] = read  # type: ignore[attr-defined]
        elif isinstance(node, ast.arg) and node.annotation is not None and ast.unparse(node.annotation) == "Params":
            aliases[node.arg] = ""
    attributes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    # Only the outermost attribute of a chain says what is read; an assignment or a bare check reads nothing yet.
    assigned = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.Expr)}
    read = {
        found
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name | ast.Call)
        and id(node) not in attributes | assigned
        and not isinstance(getattr(node, "ctx", None), ast.Store)
        and (found := chain(node)) is not None
    }
    return set().union(*map(leaves, read))


@pytest.mark.parametrize("name", STAGES)
def test_stage_names_every_module_it_imports(name: str) -> None:
    declared = {dep for dep in STAGES[name]["deps"] if dep.startswith("stages/")}
    assert declared == closure(ROOT / "stages" / f"{name}.py")


@pytest.mark.parametrize("name", STAGES)
def test_stage_names_every_parameter_it_reads(name: str) -> None:
    declared = set().union(*(leaves(parameter) for parameter in STAGES[name].get("params", [])))
    assert declared == parameters_read(ROOT / "stages" / f"{name}.py")


def test_stages_import_no_stages() -> None:
    for name in STAGES:
        assert {path.parent.name for path in imports(ROOT / "stages" / f"{name}.py")} == {"lib"}
    for path in (ROOT / "stages" / "lib").glob("*.py"):
        assert {imported.parent.name for imported in imports(path)} <= {"lib"}


def test_images_stay_out_of_the_remote_and_weights_are_cached() -> None:
    for stage in STAGES.values():
        for out in stage.get("outs", []):
            path, options = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            if path.startswith("data/"):
                assert options == {"push": False}
            assert options.get("cache", True) or path.startswith("reports/")


def test_only_one_metrics_file() -> None:
    metrics = [metric for stage in STAGES.values() for metric in stage.get("metrics", [])]
    assert [next(iter(metric)) for metric in metrics] == ["metrics.json"]
