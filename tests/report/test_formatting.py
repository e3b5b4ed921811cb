"""Numbers to text, and any text to Markdown."""

import pytest
from markupsafe import Markup

from stages.lib.report import formatting
from stages.lib.report.render import difference, escape
from stages.lib.report.statistics import Difference, Spread


def test_numbers_have_the_digits_that_they_deserve() -> None:
    numbers = [formatting.significant(value) for value in (0, 0.0123, 6.04, 9.96, 61.9, 1234.5)]
    assert numbers == ["0.0", "0.012", "6.0", "10", "62", "1,200"]
    assert [formatting.duration(seconds) for seconds in (45, 600, 9000)] == ["45 s", "10 min", "2.5 h"]
    assert [formatting.percent(share) for share in (0.2, 0.9995, 1)] == ["20 %", "99.95 %", "100 %"]
    assert [formatting.count(number) for number in (6402564, 0.4, 40.0)] == ["6,402,564", "0.4", "40"]
    assert formatting.megabytes(950_012) == "0.950"


@pytest.mark.parametrize(("ratio", "shown"), [(1.6951, 1.69), (1.7, 1.7), (3.9999, 3.99), (0.29, 0.29)])
def test_a_ratio_is_rounded_down(ratio: float, shown: float) -> None:
    assert formatting.times(ratio) == shown


def test_a_difference_is_bold_beyond_its_noise_alone() -> None:
    assert difference(Difference(0.76, 0.55)) == "**+0.76 ± 0.55**"
    assert difference(Difference(-0.26, 0.26)) == "-0.26 ± 0.26"
    assert formatting.ratio(Spread(2.79, 2.85, 2.949)).startswith("2.85")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("`rm`", r"\`rm\`"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("[x](y) *z* _w_", r"\[x\](y) \*z\* \_w\_"),
        ("a\nb\x1b[31m\u202ec", r"a b \[31m c"),
        ("back\\slash", r"back\\slash"),
        ("Intel(R) Xeon(R) @ 2.20GHz", "Intel(R) Xeon(R) @ 2.20GHz"),
        (6.5, "6.5"),
    ],
)
def test_text_is_escaped_to_show_as_it_is(text: object, escaped: str) -> None:
    assert escape(text) == escaped
    assert escape(Markup("**bold**")) == "**bold**"
