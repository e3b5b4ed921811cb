"""Which trials a sweep has: `sweep.yaml`, and the parameters that are committed."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from stages.lib.artifacts import onnx_path, packed_path
from stages.lib.models import MODELS
from stages.lib.params import parse_params, parse_yaml

# Which model each parameter concerns: so each value is one trial, and not one with every value of the others.
PARAMETERS = {
    "prune.ratio": "structured",
    "prune.sparsity": "unstructured",
    "lowrank.macs_ratio": "lowrank",
    "distill.width": "distilled",
    "squeeze.sparsity": "sparse-lowbit",
    "squeeze.weight_bits": "sparse-lowbit",
}
SHARED = ("prune", "finetune", "lowrank", "distill", "squeeze", "quantize")  # sections that leave the base as it is
MOST_TRIALS = 100  # all are in memory when they are measured


@dataclass(frozen=True)
class Trial:
    """One experiment.

    Attributes:
        name: Of the experiment in DVC, which tells all parameters.
        model: The one that is made and measured.
        change: As `dvc exp run -S` takes it; None for the base as it is.
        shared: Changes that all trials of the sweep make, likewise.
    """

    name: str
    model: str
    change: str | None = None
    shared: tuple[str, ...] = ()

    @property
    def changes(self) -> list[str]:
        """All of them."""
        return [*self.shared, *([] if self.change is None else [self.change])]

    @property
    def targets(self) -> list[str]:
        """The stages that measure its accuracy and make its files."""
        evaluations = [f"evaluate@{self.model}-{precision}" for precision in ("fp32", "int8")]
        return [*evaluations, f"pack@{self.model}"] if MODELS[self.model].packed else evaluations

    @property
    def file(self) -> str:
        """Its int8 file, as it ships."""
        return str((packed_path if MODELS[self.model].packed else onnx_path)(self.model, "int8"))


def read_plan(plan: str, params: str) -> list[Trial]:
    """The trials of a sweep, the base first.

    Args:
        plan: The text of sweep.yaml: `parameter: [values]` for as many trials, `parameter: value` for what all set.
        params: The text of params.yaml.

    Raises:
        ValueError: One line for each problem.
    """
    parse_params(params)
    wishes = parse_yaml(plan)
    if not isinstance(wishes, dict) or not wishes:
        raise ValueError(f"must have lines such as `prune.ratio: [0.1, 0.2]`, got {type(wishes).__name__}")
    problems: list[str] = []
    shared = {name: value for name, value in wishes.items() if name not in PARAMETERS and not isinstance(value, list)}
    for name, value in shared.items():
        if str(name).partition(".")[0] not in SHARED or isinstance(value, dict):
            problems.append(f"{name!r} can't be set in all trials; a single value under {', '.join(SHARED)} can")
            continue
        try:
            params = _changed(params, name, value)
        except ValueError as error:
            problems += str(error).splitlines()
    changes = tuple(f"{name}={json.dumps(value, default=str)}" for name, value in shared.items())
    trials = {"base": Trial(_name("base", params), "base", shared=changes)}
    for parameter, values in wishes.items():
        if parameter in shared:
            continue
        if parameter not in PARAMETERS:
            problems.append(f"{parameter!r} can't be swept; these can: {', '.join(PARAMETERS)}")
        elif not isinstance(values, list) or not values:
            problems.append(f"{parameter} must have a list of values, got {values!r}")
        else:
            model = PARAMETERS[parameter]
            for value in values:
                try:
                    name = _name(model, _changed(params, parameter, value))
                except ValueError as error:
                    problems += str(error).splitlines()
                else:
                    trials.setdefault(name, Trial(name, model, f"{parameter}={float(value):.15g}", changes))
    if len(trials) > MOST_TRIALS:
        problems.append(f"must have at most {MOST_TRIALS} trials, got {len(trials)}")
    if problems:
        raise ValueError("\n".join(problems))
    return list(trials.values())


def _changed(params: str, parameter: str, value: object) -> str:
    """The text of params.yaml with another value.

    Raises:
        ValueError: One line for each problem.
    """
    inner = values = yaml.safe_load(params)
    *sections, key = parameter.split(".")
    for section in sections:
        inner = inner.setdefault(section, {}) if isinstance(inner, dict) else None
    if not isinstance(inner, dict):
        raise ValueError(f"{parameter} is not a parameter")
    inner[key] = value
    text = yaml.safe_dump(values)
    parse_params(text)
    return text


def _name(model: str, params: str) -> str:
    """Of the experiment that makes a model with these parameters; comments and order don't count."""
    text = json.dumps(dict(_leaves(yaml.safe_load(params))), sort_keys=True)
    return f"sweep-{model}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _leaves(values: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", float(value) if isinstance(value, int) and not isinstance(value, bool) else value
