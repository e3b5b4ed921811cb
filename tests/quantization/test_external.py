"""Classifiers from elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper

from stages.lib.images import Images
from stages.lib.quantization import rounding
from stages.lib.quantization.external import INT8_OPERATORS, adopt_onnx
from stages.lib.quantization.static import choose_calibration
from stages.lib.runtime.session import classify, error_pct, open_session
from stages.lib.schema import Quantize
from stages.lib.sources.datasets import read_digits

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
CLASSES = ("ant", "bee", "cat")


def small_model(
    path: Path,
    *,
    layout: str = "NCHW",
    batch: str | int = "N",
    side: str | int = 8,
    opset: int = 17,
    classes: int = 3,
    flatten: tuple[int, int] = (0, -1),
    extra: list[onnx.NodeProto] | None = None,
) -> onnx.ModelProto:
    """A convolution, batch normalization, ReLU, mean and a linear layer, written to `path`."""
    rng = np.random.default_rng(0)
    weights = {
        "conv.weight": rng.normal(size=(4, 3, 3, 3)),
        "scale": rng.uniform(0.5, 2, 4), "shift": rng.normal(size=4),
        "mean": rng.normal(size=4), "variance": rng.uniform(0.5, 2, 4),
        "linear.weight": rng.normal(size=(classes, 4)), "linear.bias": rng.normal(size=classes),
    }  # fmt: skip
    first = [helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2])] if layout == "NHWC" else []
    nodes = [
        *first,
        helper.make_node("Conv", ["nchw" if first else "x", "conv.weight"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["e"]),
        helper.make_node("Gemm", ["e", "linear.weight", "linear.bias"], ["y"], transB=1),
        *(extra or []),
    ]
    shape = [batch, 3, side, side] if layout == "NCHW" else [batch, side, side, 3]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
        + [numpy_helper.from_array(np.array(flatten), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return model


def adopt(path: Path, target: Path, **changes: Any) -> dict[str, int]:
    settings: dict[str, Any] = {"layout": "NCHW", "mean": MEAN, "std": STD, "image_size": 8, "classes": CLASSES}
    return adopt_onnx(path, target, **settings | changes)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_an_adopted_model_takes_images_as_they_are_and_gives_the_same_logits(tmp_path: Path, layout: str) -> None:
    small_model(tmp_path / "net.onnx", layout=layout)
    costs = adopt(tmp_path / "net.onnx", tmp_path / "out.onnx", layout=layout)
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    normalized = ((images / 255 - MEAN) / STD).astype(np.float32)
    feed = normalized.transpose(0, 3, 1, 2) if layout == "NCHW" else normalized
    expected = open_session(tmp_path / "net.onnx", threads=1).run(None, {"x": feed})[0]
    session = open_session(tmp_path / "out.onnx", threads=1)
    assert np.allclose(classify(session, images, batch_size=2), expected, atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["classes"] == '["ant", "bee", "cat"]'
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node}
    # The convolution's bias is what is left of batch normalization.
    assert costs == {
        "num_parameters": 4 * 27 + 4 + 12 + 3,
        "num_nonzero_parameters": 4 * 27 + 4 + 12 + 3,
        "macs": 4 * 27 * 64 + 12,
    }


def spoil(path: Path, **changes: Any) -> None:
    small_model(path, **changes)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda path: path.unlink(missing_ok=True),
        r"external must name files in external/onnx/, found no .*; copy it",
    ),
    "nonsense": (lambda path: path.write_bytes(b"nonsense"), "must be a valid ONNX model, got another"),
    "old opset": (lambda path: spoil(path, opset=11), r"must have opset 13 or newer, got 11; export it with 18"),
    "fixed batch": (lambda path: spoil(path, batch=1), r"got \[1, 3, 8, 8\]; export it with a dynamic batch"),
    "batch fixed inside": (
        lambda path: spoil(path, flatten=(1, 4)),
        "must take several images, failed on 2; export it with a dynamic batch",
    ),
    "other size": (lambda path: spoil(path, side=16), r"got \['any', 3, 16, 16\]; .* or change data.image_size"),
    "other layout": (lambda path: spoil(path, layout="NHWC"), r"in layout NCHW, got \['any', 8, 8, 3\]"),
    "other classes": (lambda path: spoil(path, classes=5), r"logits of 3 classes, got \[\[None, 5\]\]; export another"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    make, message = REFUSED[kind]
    make(tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=message) as error:
        adopt(tmp_path / "net.onnx", tmp_path / "out.onnx")
    assert str(tmp_path / "net.onnx") in str(error.value)
    assert not (tmp_path / "out.onnx").exists()


def test_foreign_operators_and_weights_elsewhere_are_refused(tmp_path: Path) -> None:
    model = small_model(tmp_path / "net.onnx")
    onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, size_threshold=0, location="weights")
    with pytest.raises(
        ValueError, match="it must hold its weights itself, got some in other files; save it as one file"
    ):
        adopt(tmp_path / "split.onnx", tmp_path / "out.onnx")
    model = small_model(tmp_path / "net.onnx")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node[2].op_type, model.graph.node[2].domain = "Gelu", "com.microsoft"
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match=r"without control flow, got com\.microsoft\.Gelu"):
        adopt(tmp_path / "foreign.onnx", tmp_path / "out.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_classifiers_of_torchvision_lose_no_more_than_is_allowed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "MOST_INPUTS", 1200)  # covariances of more take minutes
    digits = read_digits(64)
    train, test = digits.train, digits.test
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = torchvision.models.get_model(name, num_classes=10)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1  # mobilenet's own 0.01 is for longer trainings
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=5 * 22)
    for _ in range(5):
        for indices in torch.randperm(len(train.labels))[: 22 * 64].view(22, 64):
            images = torch.from_numpy(train.images[indices]).permute(0, 3, 1, 2) / 255
            loss = torch.nn.functional.cross_entropy(
                model((images - mean) / std), torch.from_numpy(train.labels)[indices]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    torch.set_num_threads(1)
    torch.onnx.export(
        model.eval(), (torch.zeros(2, 3, 64, 64),), tmp_path / "net.onnx", input_names=["x"], output_names=["y"],
        dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False, external_data=False,
    )  # fmt: skip
    adopt(tmp_path / "net.onnx", tmp_path / "fp32.onnx", image_size=64, classes=digits.classes)
    facts = choose_calibration(
        tmp_path / "fp32.onnx",
        tmp_path / "int8.onnx",
        calibration=train.images[:64],
        validation=Images(train.images[:300], train.labels[:300], digits.classes),
        recipe=Quantize(calibration_images=[64], calibration_methods=["minmax"], max_loss_pct=1.0),
        operators=INT8_OPERATORS,
    )
    assert facts["val_error_pct"] <= facts["fp32_val_error_pct"] + 1
    errors = {}
    for precision in ("fp32", "int8"):
        logits = classify(open_session(tmp_path / f"{precision}.onnx", threads=1), test.images, batch_size=50)
        errors[precision] = error_pct(logits, test.labels, top=1)
    print(name, errors, facts["float_layers"], facts["val_error_pct"], facts["fp32_val_error_pct"])
    assert errors["fp32"] < 10 and errors["int8"] <= errors["fp32"] + 4
    sizes = [(tmp_path / f"{precision}.onnx").stat().st_size for precision in ("fp32", "int8")]
    assert sizes[1] < (0.3 if not facts["float_layers"] else 0.7) * sizes[0]


def test_branches_are_refused(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("Identity", ["y"], [name])], name, [], [output])

    model = small_model(tmp_path / "net.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    choice = helper.make_node("If", ["condition"], ["z"], then_branch=branch("z1"), else_branch=branch("z2"))
    model.graph.node.append(choice)
    model.graph.output[0].name = "z"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="must have standard operators without control flow, got If; export it again"):
        adopt(tmp_path / "net.onnx", tmp_path / "out.onnx")
