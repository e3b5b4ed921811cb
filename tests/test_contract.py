"""dvc.yaml names what each stage really imports and reads: else DVC calls a stale result up to date."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from stages.lib.artifacts import onnx_path, packed_path
from stages.lib.models import FINETUNED, MODELS, PACKED, PRECISIONS, variant_name
from stages.lib.schema import Params

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOT_TRACKED = {"stages/lib/params.py", "stages/lib/schema.py"}  # their values are


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
    names: list[str] = []
    for part in filter(None, parameter.split(".")):
        if not hasattr(model, "model_fields"):  # a dictionary, whose items are no parameters of their own
            break
        model = model.model_fields[part].annotation
        names.append(part)
    parameter = ".".join(names)
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
def test_stage_names_files_and_folders_that_cover_what_it_imports_and_none_in_vain(name: str) -> None:
    declared = [dep for dep in STAGES[name]["deps"] if dep.startswith("stages/")]
    covered_by = {
        file: [dep for dep in declared if file == dep or file.startswith(f"{dep}/")]
        for file in closure(ROOT / "stages" / f"{name}.py")
    }
    assert [file for file, by in covered_by.items() if len(by) != 1] == []
    assert {by[0] for by in covered_by.values()} == set(declared)


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ("pruning/channels.py", {"prune", "sparsify", "distill"}),
        ("quantization/static.py", {"quantize", "adopt"}),
        ("profiling/measuring.py", {"profile"}),
        ("report/render.py", {"report"}),
        ("lowrank.py", {"factorize"}),
    ],
)
def test_an_edit_makes_no_training_stale_that_does_not_need_it(changed: str, stale: set[str]) -> None:
    path = f"stages/lib/{changed}"
    assert {
        name
        for name, stage in STAGES.items()
        if any(path == dep or path.startswith(f"{dep}/") for dep in stage["deps"])
    } == stale


def test_matrices_are_those_of_the_table_of_models_and_no_parameter_reaches_a_shell() -> None:
    expected = {
        "finetune": {"model": FINETUNED},
        "quantize": {"model": list(MODELS)},
        "evaluate": {"model": list(MODELS), "precision": list(PRECISIONS)},
        "pack": {"model": PACKED},
    }
    assert {name: stage["matrix"] for name, stage in STAGES.items() if "matrix" in stage} == expected
    assert {model.maker for model in MODELS.values()} <= set(STAGES)
    for stage in STAGES.values():
        assert set(re.findall(r"\$\{([^}]*)\}", stage["cmd"])) <= {"item.model", "item.precision"}


@pytest.mark.parametrize("name", STAGES)
def test_stage_names_every_parameter_it_reads(name: str) -> None:
    declared = set().union(*(leaves(parameter) for parameter in STAGES[name].get("params", [])))
    assert declared == parameters_read(ROOT / "stages" / f"{name}.py")


def test_stages_import_no_stages_and_rooms_import_downwards_only() -> None:
    lib = ROOT / "stages" / "lib"
    for name in STAGES:
        assert all(lib in path.parents for path in imports(ROOT / "stages" / f"{name}.py"))
    above: dict[str, set[str]] = {  # what a room may import besides itself and the single files
        "sources": {"runtime"},
        "network": set(),
        "runtime": set(),
        "report": set(),
        "training": {"network"},
        "pruning": {"network"},
        "quantization": {"network", "runtime"},
        "profiling": {"network", "runtime"},
    }
    for path in lib.rglob("*.py"):
        assert all(lib in imported.parents for imported in imports(path))
        if (room := path.parent.name) != "lib":
            rooms = {imported.parent.name for imported in imports(path)} - {"lib", room}
            assert rooms <= above[room], path


def test_images_stay_out_of_the_remote_and_weights_are_cached() -> None:
    for stage in STAGES.values():
        for out in stage.get("outs", []):
            path, options = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            if path.startswith("data/"):
                assert options == {"push": False}
            assert options.get("cache", True) or path.startswith("reports/")


def test_every_make_target_that_is_named_anywhere_has_a_recipe() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):.*\n\t", makefile, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    assert phony and set(phony[1].split()) - {"install"} == targets - {"install"}
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("stages/**/*.py"),
        *ROOT.glob("stages/**/*.j2"),
    ]:
        assert set(re.findall(r"`make\s+([\w-]+)", path.read_text())) <= targets | {"install"}, path


def test_metrics_that_differ_by_machine_have_a_file_of_their_own() -> None:
    metrics = [metric for stage in STAGES.values() for metric in stage.get("metrics", [])]
    assert [next(iter(metric)) for metric in metrics] == ["metrics.json", "reports/latency.json"]


def test_every_shipped_model_is_an_artifact() -> None:
    shipped = {
        variant_name(model.name, precision): (packed_path if model.packed else onnx_path)(model.name, precision)
        for model in MODELS.values()
        for precision in PRECISIONS
        if model.packed or precision == "int8"
    }
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["artifacts"]
    assert {name: Path(entry["path"]) for name, entry in listed.items()} == shipped
