"""The report, the page and the model cards: rows, published numbers and findings, laid out by templates."""

import html
import inspect
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markdown_it import MarkdownIt
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from stages.lib.artifacts import onnx_path, packed_path
from stages.lib.models import MODELS
from stages.lib.report import formatting
from stages.lib.report.figures import shows_channels
from stages.lib.report.goals import left_out, verdicts
from stages.lib.report.results import Results
from stages.lib.report.statistics import Difference
from stages.lib.report.tables import VariantRow, adopted_rows, model_rows, original_rows, recommended, variant_rows

FOLDER = Path(__file__).parent
MANY_EPOCHS = 100


def render_report(results: Results, *, findings: str) -> str:
    """The whole report in Markdown; it shows the figures beside it.

    Args:
        findings: What a person concluded, in Markdown. It is shown if its first line is that of this run.
    """
    return _markdown().get_template("report.md.j2").render(_context(results, findings))


def render_page(results: Results, *, findings: str) -> str:
    """The report as one HTML page that loads nothing else; arguments as for `render_report`."""
    context = _context(results, findings)
    if context["findings"] is not None:
        context["findings"] = Markup(MarkdownIt("commonmark", {"html": False}).render(context["findings"]))
    return _environment().get_template("page.html.j2").render(context)


def render_card(results: Results, row: VariantRow) -> str:
    """The model card of a variant, in Markdown."""
    path = (packed_path if row.model.packed else onnx_path)(row.model.name, row.precision)
    epochs = results.curves[row.model.name][-1].epoch
    context = _shared(results) | {"row": row, "file": path, "epochs": epochs}
    return _markdown().get_template("card.md.j2").render(context)


def _environment(**options: Any) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    filters: dict[str, Any] = dict(inspect.getmembers(formatting, inspect.isfunction))
    environment.filters |= filters | {"code": code, "difference": difference}
    environment.globals["ticks"] = ticks
    return environment


def _markdown() -> jinja2.Environment:
    return _environment(finalize=escape)  # autoescape keeps what it and macros give from being escaped again


def findings_line(rows: list[VariantRow]) -> str:
    """The first line of findings: the errors of the run that they are about, which tells stale ones."""
    return f"<!-- top-1 errors: {' '.join(f'{row.accuracy.top1_error_pct:.2f}' for row in rows)} -->"


def _shared(results: Results) -> dict[str, Any]:
    params = results.params
    names = {"cifar100": "CIFAR-100", "digits": "scikit-learn's digits", "folder": str(params.data.folder)}
    return {
        "params": params,
        "data": names[params.data.name],
        "size": params.data.image_size,
        "machine": results.profile.machine,
        "machines": results.machines,
        "training": results.training["base"],
    }


def _context(results: Results, findings: str) -> dict[str, Any]:
    rows = variant_rows(results)
    published = yaml.safe_load((FOLDER / "published.yaml").read_text(encoding="utf-8"))
    original = {model: numbers for model, numbers in published["original"].items() if model in MODELS}
    data, train = results.params.data, results.params.train
    errors = {layer.name: layer.error_pct for layer in results.quantization["base"].layers}
    first, _, text = findings.partition("\n")
    return _shared(results) | {
        "profile": results.profile,
        "rows": rows,
        "is_small_budget": data.limit_per_class is not None
        or (train.start is None and results.curves["base"][-1].epoch < MANY_EPOCHS),
        "is_busy_machine": rows[0].cost.latency_cpu_p95_ms > 3 * rows[0].cost.latency_cpu_p5_ms,
        "by_name": {row.name: row for row in rows},
        "error_range": (
            min(row.accuracy.top1_error_pct - row.noise for row in rows) - 0.5,
            max(row.accuracy.top1_error_pct + row.noise for row in rows) + 0.5,
        ),
        "colors": {name: number for number, name in enumerate(MODELS)},
        "curves": results.curves,
        "compression": results.compression,
        "layers": errors | {kind: None for kind in rows[0].cost.layers_us if kind not in errors},
        "models": model_rows(results),
        "recommended": recommended(rows),
        "verdicts": verdicts(results),
        "left_out": left_out(results.params),
        "findings": Markup(text.strip()) if first.strip() == findings_line(rows) else None,
        "findings_line": Markup(findings_line(rows)),
        "original": original_rows(results, original),
        "original_models": list(original),
        "public_code": published["public_code"],
        "adopted": adopted_rows(results),
        "gpus": sorted({cost.gpu for cost in results.cuda.values()}),
        "shows_channels": shows_channels(results.compression),
    }


def difference(value: Difference) -> Markup:
    """A difference with its noise in Markdown, bold where it is beyond that."""
    text = formatting.signed(value)
    return Markup(f"**{text}**" if value.is_beyond_noise else text)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`."""
    return [float(tick) for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]


def code(name: object) -> Markup:
    """A name of this repository, or one that the schema restricts, in code style, where nothing can be escaped."""
    return Markup(f"`{name}`")


def escape(value: Any) -> Markup:
    """Any value as Markdown, in one line, that shows its text as it is; Markup stays what it is."""
    if isinstance(value, Markup):
        return value
    printable = "".join(char if char.isprintable() else " " for char in str(value))
    return Markup(re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", html.escape(printable, quote=False)))
