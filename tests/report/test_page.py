"""The report as one HTML page, in a browser."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stages.lib.artifacts import evaluation_path, profile_path
from stages.lib.models import MODELS
from stages.lib.report.render import findings_line, render_card, render_page
from stages.lib.report.tables import variant_rows
from tests.report.run import CLASSES, Run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Put at the end of the page: uses it as a reader would, and leaves what happened in the title.
READER = """
<script>
const seen = {};
const choice = () => document.getElementById("choice").textContent;
const first = table => table.tBodies[0].rows[0].cells[0].textContent;
const set = (name, value) => { form[name].value = value; form.dispatchEvent(new Event("input")); };
seen.start = choice();
set("wish", "error");
seen.accurate = choice();
set("points", ""); set("mb", "1");
seen.small = choice();
set("mb", ""); set("ms", "1"); set("wish", "mb");
seen.fast = choice();
set("mb", "0.0001");
seen.none = choice();
const table = document.querySelector("#variants ~ div table");
const header = [...table.querySelectorAll("th[data-sort]")].find(th => th.textContent.startsWith("Latency"));
header.firstElementChild.click();
seen.fastest = [first(table), header.getAttribute("aria-sort")];
header.firstElementChild.click();
seen.slowest = [first(table), header.getAttribute("aria-sort")];
const point = document.querySelector('.point[data-variant="lowrank-int8"]');
point.focus();
seen.tip = [tip.hidden, tip.textContent];
seen.sources = performance.getEntriesByType("resource").map(entry => entry.name);
seen.wide = document.documentElement.scrollWidth > innerWidth;
document.title = JSON.stringify(seen);
</script>
"""


class Tags(HTMLParser):
    """All start tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


@pytest.fixture
def page(run: Run) -> Iterator[str]:
    yield render_page(run.results(), findings="")


def test_the_page_loads_nothing_and_is_small(page: str) -> None:
    assert len(page) < 2_000_000
    for tag, attributes in Tags(page).found:
        assert "src" not in attributes and tag not in ("iframe", "object", "embed", "img"), tag
        assert (attributes.get("href") or "#").startswith(("#", "data:,")), attributes
    assert not re.search(r"url\(|@import|fetch\(|https?://", page)


def test_figures_have_names_and_tables_have_headers(page: str) -> None:
    tags = Tags(page).found
    figures = [attributes for tag, attributes in tags if tag == "svg"]
    assert figures and all(
        attributes["role"] in ("img", "group") and ("aria-label" in attributes or "aria-labelledby" in attributes)
        for attributes in figures
    )
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    points = [attributes for _, attributes in tags if attributes.get("class") == "point"]
    assert len(points) == 4 * len(MODELS) and all(attributes["tabindex"] == "0" for attributes in points)


def test_text_from_outside_is_only_text(run: Run) -> None:
    hostile = "<script>alert(1)</script>"
    run.change(profile_path(), "machine", cpu=hostile)
    run.add_machine(hostile, base=3.0)
    for path in Path("artifacts/evaluation").glob("*-*.json"):
        run.change(path, classes=[hostile, *CLASSES[1:]])
    rows = variant_rows(run.results())
    findings = f"{findings_line(rows)}\n\nThe **student** gains. {hostile}"
    page = render_page(run.results(), findings=findings)
    assert page.count("<script>") == 1 and "&lt;script&gt;alert(1)" in page
    assert "The <strong>student</strong> gains." in page
    card = render_card(run.results(), rows[1])
    assert "<script" not in card


def test_a_card_has_the_front_matter_of_the_hub_and_the_numbers(run: Run) -> None:
    import yaml

    run.add_machine("Pi 5", base_int8=12.5)
    row = next(row for row in variant_rows(run.results()) if row.name == "base-int8")
    _, front, text = render_card(run.results(), row).split("---\n", 2)
    values = yaml.safe_load(front)
    assert (values["license"], values["library_name"]) == ("mit", "onnx")
    (metric,) = values["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == pytest.approx(100 - row.accuracy.top1_error_pct, abs=0.01)
    for part in (
        "artifacts/int8/base.onnx",
        "12 ms on Pi 5",
        "uint8 (N, 32, 32, 3)",
        row.accuracy.file_sha256,
        "beaver",
    ):
        assert part in text
    packed = next(row for row in variant_rows(run.results()) if row.name == "unstructured")
    assert "artifacts/packed/unstructured-fp32.onnx.packed" in render_card(run.results(), packed)


def test_a_page_without_cifar_100_or_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run("demo")
    for path in Path("artifacts/evaluation").glob("*-*.json"):
        run.change(path, classes=[f"class {i}" for i in range(100)])
    page = render_page(run.results(), findings="")
    assert "Superclass" not in page and "undefined" not in page and evaluation_path("base", "fp32").exists()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_chooser_sorting_and_hints_work_in_a_browser(page: str, width: int) -> None:
    Path("page.html").write_text(page.replace("</body>", f"{READER}</body>"), encoding="utf-8")
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=2000"]
    options += [f"--window-size={width},900", "--user-data-dir=chromium", "--dump-dom"]
    command = [CHROMIUM, *options, Path("page.html").absolute().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title, done.stderr
    seen = json.loads(title[1].replace("&lt;", "<").replace("&amp;", "&"))
    assert seen["start"].startswith("Ship lowrank-int8: 23.10 % error")
    assert seen["accurate"].startswith("Ship base: 22.90 % error")
    assert seen["small"].startswith("Ship distilled-int8:")
    assert seen["none"] == "No variant fits; raise a limit."
    assert seen["fastest"] == ["distilled-int8", "ascending"]
    assert seen["slowest"][1] == "descending" and seen["slowest"][0] != "distilled-int8"
    assert seen["tip"][0] is False and seen["tip"][1].startswith("lowrank-int8\n23.10 %")
    assert seen["sources"] == [] and seen["wide"] is False
