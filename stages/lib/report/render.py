"""The report in Markdown: rows, published numbers and findings, laid out by a template."""

import html
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from stages.lib.models import MODELS
from stages.lib.report import formatting
from stages.lib.report.figures import shows_channels
from stages.lib.report.goals import left_out, verdicts
from stages.lib.report.results import Results
from stages.lib.report.statistics import Difference
from stages.lib.report.tables import VariantRow, model_rows, original_rows, recommended, variant_rows

FOLDER = Path(__file__).parent
FILTERS = (
    formatting.count,
    formatting.duration,
    formatting.fixed,
    formatting.megabytes,
    formatting.milliseconds,
    formatting.percent,
    formatting.ratio,
    formatting.significant,
    formatting.times,
)


def render_report(results: Results, *, findings: str) -> str:
    """The whole report; it shows the figures beside it.

    Args:
        findings: What a person concluded, in Markdown. It is shown if its first line is that of this run.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=True,  # `finalize` escapes; this keeps what it and macros give from being escaped again
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {function.__name__: function for function in (code, difference, *FILTERS)}
    return environment.get_template("report.md.j2").render(_context(results, findings))


def findings_line(rows: list[VariantRow]) -> str:
    """The first line of findings: the errors of the run that they are about, which tells stale ones."""
    return f"<!-- top-1 errors: {' '.join(f'{row.accuracy.top1_error_pct:.2f}' for row in rows)} -->"


def _context(results: Results, findings: str) -> dict[str, Any]:
    rows = variant_rows(results)
    published = yaml.safe_load((FOLDER / "published.yaml").read_text(encoding="utf-8"))
    original = {model: numbers for model, numbers in published["original"].items() if model in MODELS}
    first, _, text = findings.partition("\n")
    return {
        "params": results.params,
        "profile": results.profile,
        "rows": rows,
        "models": model_rows(results),
        "recommended": recommended(rows),
        "verdicts": verdicts(results),
        "left_out": left_out(results.params),
        "findings": Markup(text.strip()) if first.strip() == findings_line(rows) else None,
        "findings_line": Markup(findings_line(rows)),
        "original": original_rows(results, original),
        "original_models": list(original),
        "public_code": published["public_code"],
        "shows_channels": shows_channels(results.compression),
    }


def difference(value: Difference) -> Markup:
    """A difference with its noise, bold where it is beyond that."""
    text = f"{value.points:+.2f} ± {value.noise:.2f}"
    return Markup(f"**{text}**" if value.is_beyond_noise else text)


def code(name: str) -> Markup:
    """A name of this repository in code style; text from outside has no place there, since it can't be escaped."""
    return Markup(f"`{name}`")


def escape(value: Any) -> Markup:
    """Any value as Markdown, in one line, that shows its text as it is; Markup stays what it is."""
    if isinstance(value, Markup):
        return value
    printable = "".join(char if char.isprintable() else " " for char in str(value))
    return Markup(re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", html.escape(printable, quote=False)))
