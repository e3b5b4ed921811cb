"""Make the report from what the other stages measured: `python -m stages.report`."""

import argparse
import json

from stages.lib.artifacts import LATENCIES, METRICS, REPORTS, replacing
from stages.lib.params import load_params
from stages.lib.report.figures import draw_channels, draw_curves, draw_tradeoffs, shows_channels
from stages.lib.report.render import render_card, render_page, render_report
from stages.lib.report.results import read_findings, read_results
from stages.lib.report.tables import latencies, metrics, tradeoffs, variant_rows
from stages.lib.stage import one_line_errors


def main() -> None:
    """Read what the other stages wrote under artifacts/ and reports/, write metrics, report and figures."""
    results = read_results(load_params())
    rows, findings = variant_rows(results), read_findings(REPORTS / "findings.md")
    # Everything is made before anything is written, so that a failure leaves the old report whole.
    outputs = {
        REPORTS / "figures" / "curves.svg": draw_curves(results),
        REPORTS / "figures" / "tradeoffs.svg": draw_tradeoffs(rows),
        REPORTS / "report.md": render_report(results, findings=findings),
        REPORTS / "report.html": render_page(results, findings=findings),
        REPORTS / "variants.csv": tradeoffs(rows),
        METRICS: json.dumps(metrics(rows), indent=2) + "\n",
        LATENCIES: json.dumps(latencies(rows), indent=2) + "\n",
        **{REPORTS / "cards" / f"{row.name}.md": render_card(results, row) for row in rows},
    }
    channels = REPORTS / "figures" / "channels.svg"
    if shows_channels(results.compression):
        outputs[channels] = draw_channels(results.compression)
    else:
        channels.unlink(missing_ok=True)
    for path, text in outputs.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("report"):
        main()
