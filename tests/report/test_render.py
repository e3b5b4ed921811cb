"""The report as Markdown."""

import re
from pathlib import Path

import pytest

from stages.lib.artifacts import profile_path, quantization_path, training_path
from stages.lib.models import MODELS
from stages.lib.report.render import escape, findings_line, render_card, render_page
from stages.lib.report.tables import variant_rows
from tests.report.run import HEADER, Run

SECTIONS = [
    "Which variant to ship",
    "All variants",
    "Uncertainty of the errors",
    "Speed",
    "How each model was made",
    "Goals",
    "Findings",
    "Beside the original report",
    "What was run",
    "How it was measured",
    "Reproduce",
]
HOSTILE = "A|B\\ `c` <img src=x> &lt; *b* _i_ [l](u) ![p](u) ~~s~~ $x$ #1\x1b[31m\r\n| new | row |\n# New\u202e"
SPECIAL = r"\`*_[]|~$#!"
SEPARATOR = re.compile(r"(\|:?-+:?)+\|")


def sections(text: str) -> list[str]:
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each row of each table, without what stands before the first | and after the last."""
    blocks: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            blocks[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def table(text: str, corner: str) -> list[list[str]]:
    return next(rows for rows in tables(text) if rows[0][0] == corner)


def assert_is_well_formed(text: str) -> None:
    for header, separator, *rows in tables(text):
        assert SEPARATOR.fullmatch(f"|{'|'.join(separator)}|")
        assert rows and {len(row) for row in rows} == {len(header)} == {len(separator)}, header
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))
    assert text.count("```") % 2 == 0 and "\n\n\n" not in text and text.endswith("\n") and not text.endswith("\n\n")
    for wrong in ("undefined", " None ", "****", "** **", r"\`", "&#", " nan", "inf "):
        assert wrong not in text, wrong


def test_every_section_has_its_place(run: Run) -> None:
    text = run.render()
    assert sections(text) == SECTIONS
    assert_is_well_formed(text)


def test_every_variant_is_in_the_main_table(run: Run) -> None:
    _, _, *rows = table(run.render(), "Variant")
    assert [row[0] for row in rows] == [f"`{name}{suffix}`" for name in MODELS for suffix in ("", "-int8")]
    latency = ["0.50 (0.48–0.54)", "12.00×", "38"]
    last = next(row for row in rows if row[0] == "`distilled-int8`")
    assert last[1:4] == ["30.10", "**+7.20 ± 1.65**", "6.13"]
    assert last[4:] == ["800,000", "800,000", "530", "0.800", "32.00×", *latency]


def test_every_goal_is_in_the_table_of_goals_and_counted(run: Run) -> None:
    text = run.render()
    rows = next(rows for rows in tables(text) if rows[0][-1] == "Verdict")[2:]
    met = [row for row in rows if row[-1].startswith("met")]
    assert f"{len(met)} of {len(rows)} goals are met." in text
    assert ["`distilled-int8`, flagship", "file size", "–", "≤ 1 MB", "0.80 MB", "met"] in rows


def test_the_demo_on_digits_has_nothing_of_cifar_100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = Run("demo").render()
    assert sections(text) == [name for name in SECTIONS if name != "Beside the original report"]
    assert not [rows for rows in tables(text) if rows[0][-1] == "Verdict"]
    assert re.search(r"`data\.name` = cifar100 .* digits", text) and "CIFAR-100" not in text
    assert_is_well_formed(text)


@pytest.mark.parametrize(
    "settings",
    [
        {"prune__importance": "taylor", "prune__scope": "global", "prune__round_to": None},
        {"prune__importance": "bn_scale", "prune__start_sparsity": 0.5, "prune__sparsity_scope": "layer"},
        {"prune__reconstruction_images": 0, "prune__sparsity_scope": "global", "quantize__reduce_range": False},
        {"distill__start": "scratch", "distill__round_to": None, "distill__stem_pool": False},
        {"distill__distillation": {"loss": "none", "temperature": 2, "weight": 9, "label_weight": 1}},
        {"model__width": 0.5, "model__stem_pool": False, "train__muon_lr": None},
        {"data__limit_per_class": 50, "prune__ratio": 0.1, "prune__sparsity": 0.5, "model__width": 2},
        {"data__name": "folder", "data__folder": "images"},
    ],
)
def test_every_setting_makes_a_report(run: Run, settings: dict[str, object]) -> None:
    run.set(**settings)
    assert_is_well_formed(run.render())
    results = run.results()
    for text in (render_page(results, findings=""), render_card(results, variant_rows(results)[0])):
        assert "None" not in text and "undefined" not in text


def test_with_five_classes_or_fewer_there_is_no_top_5_error(run: Run) -> None:
    for path in Path("artifacts/evaluation").glob("*-*.json"):
        run.change(path, top5_error_pct=0.0)
    text = run.render()
    assert "Top-5 error, %" not in table(text, "Variant")[0]
    assert_is_well_formed(text)


def test_what_a_gpu_took_is_shown_where_there_was_one(run: Run) -> None:
    def row() -> list[str]:
        return next(row for row in table(run.render(), "") if row[0] == "Profiler, CUDA total")

    assert row()[1:3] == ["12.64 ms", "–"]
    run.add_gpu()
    assert row()[1:3] == ["12.64 ms", "1.2 ms"] and "Example GPU" in run.render()


def test_a_busy_machine_and_a_small_budget_are_owned_up_to(run: Run) -> None:
    def notes() -> int:
        return len(re.findall("^> ", run.render(), re.MULTILINE))

    run.write_curve("base", HEADER, "100,1.2,23.5,32,23.5")
    assert notes() == 0
    run.change_cost("base", latency_cpu_p95_ms=18.0)
    assert notes() == 1
    run.set(data__limit_per_class=100)
    assert notes() == 2


def test_the_figure_of_channels_is_shown_only_where_there_is_one(run: Run) -> None:
    assert "figures/channels.svg" in run.render()
    for path in Path("artifacts/compression").iterdir():
        run.change(path, widths=[64] * 4, base_widths=[64] * 4, ranks=[])
    assert "figures/channels.svg" not in run.render()


def test_findings_are_shown_only_for_the_run_that_they_are_about(run: Run) -> None:
    line = findings_line(variant_rows(run.results()))
    assert line in run.render()  # says how to write them
    text = run.render(f"{line}  \n\nThe **student** <sub>gains</sub>.\n\n")
    assert "\n## Findings\n\nThe **student** <sub>gains</sub>.\n\n## " in text and line not in text
    stale = run.render("<!-- top-1 errors: 1.00 -->\nThe **student** gains.\n")
    assert "student** gains" not in stale and line in stale
    assert "student** gains" not in run.render(f"The **student** gains.\n{line}")


def test_text_from_outside_breaks_no_table_and_stays_text(run: Run) -> None:
    benign = run.render()
    names = ("cpu", "os", "python", "torch", "onnxruntime")
    run.change(profile_path(), "machine", **dict.fromkeys(names, HOSTILE))
    for model in MODELS:
        run.change(training_path(model), device=HOSTILE, precision=HOSTILE)
        run.change(quantization_path(model), calibration_method=HOSTILE)
    text = run.render()
    assert text.count(escape(HOSTILE)) == 2 + len(names) + 3 * len(MODELS)
    assert text.replace(escape(HOSTILE), "").count("|") == benign.count("|")
    assert len(text.splitlines()) == len(benign.splitlines())  # splits at every kind of line break
    run.set(data__name="folder", data__folder=HOSTILE)
    folder = run.render()
    assert sections(folder) == [name for name in SECTIONS if name != "Beside the original report"]
    for each in (text, folder):
        assert "<img" not in each and all(char.isprintable() or char == "\n" for char in each)
        assert all({len(row) for row in rows} == {len(rows[0])} for rows in tables(each))


def test_escaping_loses_no_letter_and_leaves_no_sign_that_markdown_obeys() -> None:
    text = str(escape(HOSTILE))
    assert not re.search(rf"(?<!\\)(\\\\)*[{re.escape(SPECIAL[1:])}]", text) and "<" not in text and "\n" not in text
    unescaped = re.sub(r"\\(.)", r"\1", text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert unescaped == "".join(char if char.isprintable() else " " for char in HOSTILE)


def test_a_classifier_from_elsewhere_has_a_row_of_its_own(run: Run) -> None:
    assert "Models from elsewhere" not in run.render()
    run.adopt("resnet18")
    text = run.render()
    row = next(row for row in table(text[text.index("## Models from elsewhere") :], "Model") if row[0] == "`resnet18`")
    assert row[1:4] == ["10.00", "12.00", "**+2.00 ± 0.91**"]
    assert row[-2:] == ["2.00×", "conv1"]
    assert_is_well_formed(text)
    assert "resnet18" in render_page(run.results(), findings="")


def test_classifiers_that_the_parameters_do_not_name_are_refused(run: Run) -> None:
    run.adopt("resnet18")
    run.set(external={})
    with pytest.raises(ValueError, match=r"facts\.json must have the models of external; run dvc repro"):
        run.results()
