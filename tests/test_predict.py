"""Photos in, classes out."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages import predict
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.quantization.export import export_onnx
from stages.lib.runtime.packing import pack

CLASSES = ["ant", "bee", "cät"]


@pytest.fixture(autouse=True)
def work(tmp_path: Path, tiny: GoogLeNet, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model for 48-pixel images, packed too, and two images."""
    monkeypatch.chdir(tmp_path)
    export_onnx(tiny, Path("model.onnx"), classes=CLASSES, image_size=48)
    Path("model.onnx.packed").write_bytes(pack(Path("model.onnx").read_bytes()))
    rng = np.random.default_rng(0)
    Path("photos/more").mkdir(parents=True)
    for name in ("photos/a.png", "photos/more/b.jpg"):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(name)
    Path("photos/.hidden").mkdir()
    Path("photos/.hidden/thumbnail.png").touch()
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    predict.main()


@pytest.mark.parametrize("model", ["model.onnx", "model.onnx.packed"])
def test_probabilities_are_those_of_the_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: GoogLeNet, model: str
) -> None:
    run(monkeypatch, "photos", "photos/a.png", "--model", model, "--format", "json")
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["photos/a.png", "photos/more/b.jpg"]
    assert len(found["photos/a.png"]) == len(CLASSES)
    pixels = torch.from_numpy(np.array(Image.open("photos/a.png"))).permute(2, 0, 1)[None] / 255
    expected = tiny(pixels).softmax(1)[0].tolist()
    assert {row["class"]: row["percent"] for row in found["photos/a.png"]} == pytest.approx(
        {name: 100 * share for name, share in zip(CLASSES, expected, strict=True)}, abs=0.02
    )
    percents = [row["percent"] for row in found["photos/a.png"]]
    assert percents == sorted(percents, reverse=True)


def test_csv_and_text_have_a_line_for_each_class(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "photos/a.png", "--model", "model.onnx", "--format", "csv")
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["class"] for row in rows} == set(CLASSES)
    run(monkeypatch, "photos/a.png", "--model", "model.onnx")
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_what_cannot_be_read_is_named_after_the_others_were_classified(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bad", "worse"):
        Path(f"photos/{name}.png").touch()
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "photos", "--model", "model.onnx", "--format", "csv")
    assert str(ended.value).splitlines() == [
        f"photos/{name}.png is not an image Pillow can read; remove it" for name in ("bad", "worse")
    ]
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.png", "--model", "model.onnx"], "nothing.png must be an image, found nothing there; check its path"),
        (["photos/a.png", "--model", "photos/a.png"], "photos/a.png must be an ONNX model"),
        (["empty", "--model", "model.onnx"], "IMAGE must be an image or a folder with images, got empty"),
    ],
)
def test_mistakes_end_in_one_line_and_torch_is_not_needed(work: Path, arguments: list[str], message: str) -> None:
    Path("empty").mkdir()
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('stages.predict', run_name='__main__')"
    environment = {"PYTHONPATH": str(Path(predict.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, cwd=work
    )
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count("\n") == 1
