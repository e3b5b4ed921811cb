"""Export and quantization of a small net, run by ONNX Runtime."""

import contextlib
import copy
import io
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import CalibrationMethod
from torch import nn

from stages.lib.images import Images
from stages.lib.lowrank import factorize
from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths
from stages.lib.profiling.layers import layer_times_us
from stages.lib.pruning.sparsity import round_weights
from stages.lib.pruning.weights import prune_weights
from stages.lib.quantization import static as quantization
from stages.lib.quantization.calibration import (
    CALIBRATORS,
    MOST_GROWTH,
    BoundedHistograms,
    activation_ranges,
    correct_biases,
)
from stages.lib.quantization.export import export_onnx
from stages.lib.quantization.layers import layer_errors
from stages.lib.quantization.static import choose_calibration
from stages.lib.runtime.session import classify, open_session
from stages.lib.schema import Quantize

REPOSITORY = Path(__file__).parents[2]
CLASSES = tuple(f"class {i}" for i in range(10))
METHODS = ("minmax", "percentile", pytest.param("entropy", marks=pytest.mark.slow))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Four images of each of 10 classes, uint8 (40, 32, 32, 3): a smooth pattern of the class and noise."""
    generator = torch.Generator().manual_seed(0)
    pattern = nn.functional.interpolate(torch.rand(10, 3, 4, 4, generator=generator), size=32, mode="bilinear")
    noisy = pattern.repeat(4, 1, 1, 1) + 0.05 * torch.randn(40, 3, 32, 32, generator=generator)
    return (255 * noisy.clamp(0, 1)).byte().permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture(scope="module")
def model(images: np.ndarray) -> GoogLeNet:
    """A net that has learned the images a little: the logits of a random one are all alike."""
    torch.manual_seed(0)
    model = GoogLeNet(Architecture(scaled_widths(0.1), num_classes=10, stem_pool=True, dropout=0.1))
    model.mean.copy_(torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1))
    model.std.copy_(torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1))
    pixels, labels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.arange(40) % 10
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def fp32_path(model: GoogLeNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tiny-fp32.onnx"
    export_onnx(model, path, classes=CLASSES, image_size=32)
    return path


def quantized(
    fp32_path: Path, images: np.ndarray, *, method: str, bias_correction: bool = False, reduce_range: bool = True
) -> Path:
    path = fp32_path.with_name(f"{fp32_path.stem}-{method}-{bias_correction}-{reduce_range}.onnx")
    choose_calibration(
        fp32_path,
        path,
        calibration=images,
        validation=Images(images, np.arange(len(images)) % len(CLASSES), CLASSES),
        recipe=Quantize(
            calibration_images=[len(images)],
            calibration_methods=[method],  # type: ignore[list-item]
            bias_correction=bias_correction,
            weight_rounding="nearest",
            reduce_range=reduce_range,
        ),
    )
    return path


@pytest.fixture(scope="module")
def int8_path(fp32_path: Path, images: np.ndarray) -> Path:
    return quantized(fp32_path, images, method="minmax")


@pytest.fixture
def named_path(fp32_path: Path, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The int8 file with the quantizer's names, by which weights are known."""
    monkeypatch.setattr(quantization, "_shortened", lambda model: model)
    return quantized(Path(shutil.copy(fp32_path, tmp_path)), images, method="minmax")


def test_layers_of_an_int8_file_keep_the_names_by_which_they_are_profiled(int8_path: Path, model: GoogLeNet) -> None:
    times = layer_times_us(int8_path, list(model.layers()), threads=1)
    assert min(times[layer] for layer in model.layers()) > 0


def test_the_error_of_each_layer_shows_which_one_was_spoiled(
    fp32_path: Path, named_path: Path, images: np.ndarray, model: GoogLeNet
) -> None:
    spoiled = onnx.load(named_path)
    errors = {each["name"]: float(each["error_pct"]) for each in layer_errors(fp32_path, spoiled, images)}
    assert set(errors) == set(model.layers())
    assert all(0 < error < 60 for error in errors.values())
    scale = next(
        tensor for tensor in spoiled.graph.initializer if tensor.name == "model.blocks.4.branch1.0.weight_scale"
    )
    scale.CopyFrom(onnx.numpy_helper.from_array(3 * onnx.numpy_helper.to_array(scale), scale.name))
    worse = {each["name"]: float(each["error_pct"]) for each in layer_errors(fp32_path, spoiled, images)}
    assert max(worse, key=lambda name: worse[name] - errors[name]) == "blocks.4.branch1"
    assert worse["blocks.3.branch1"] == errors["blocks.3.branch1"]


def logits_of(path: Path, images: np.ndarray) -> np.ndarray:
    return classify(open_session(path, threads=1), images, batch_size=16)


@pytest.mark.parametrize("batch", [1, 7])
def test_fp32_file_gives_the_logits_of_pytorch(
    model: GoogLeNet, fp32_path: Path, images: np.ndarray, batch: int
) -> None:
    with torch.inference_mode():
        expected = model(torch.from_numpy(images[:batch]).permute(0, 3, 1, 2) / 255)
    assert np.allclose(logits_of(fp32_path, images[:batch]), expected, atol=1e-4)


def test_batch_normalization_is_folded_away_from_a_copy(model: GoogLeNet, fp32_path: Path) -> None:
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(fp32_path).graph.node}
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_same_model_gives_the_same_bytes(model: GoogLeNet, fp32_path: Path, tmp_path: Path) -> None:
    export_onnx(copy.deepcopy(model).train(), tmp_path / "again.onnx", classes=CLASSES, image_size=32)
    assert (tmp_path / "again.onnx").read_bytes() == fp32_path.read_bytes()


def test_same_file_and_images_give_the_same_int8_bytes(int8_path: Path, fp32_path: Path, images: np.ndarray) -> None:
    before = int8_path.read_bytes()
    assert quantized(fp32_path, images, method="minmax").read_bytes() == before


def test_files_carry_class_names_and_nothing_of_this_machine(fp32_path: Path, int8_path: Path) -> None:
    for path in (fp32_path, int8_path):
        proto = onnx.load(path, load_external_data=False)
        assert {entry.key: json.loads(entry.value) for entry in proto.metadata_props} == {"classes": list(CLASSES)}
        assert open_session(path, threads=1).get_modelmeta().custom_metadata_map["classes"] == json.dumps(CLASSES)
        content = path.read_bytes()
        for hint in (str(REPOSITORY), str(path.parent), "site-packages", "pkg.torch", "namespace", ".py"):
            assert hint.encode() not in content
        assert proto.opset_import[0].version >= 17
        assert sorted(file.suffix for file in path.parent.iterdir()) == [".onnx"] * len(list(path.parent.iterdir()))


@pytest.mark.parametrize("method", METHODS)
def test_int8_file_agrees_with_fp32(fp32_path: Path, images: np.ndarray, method: str) -> None:
    fp32 = logits_of(fp32_path, images)
    int8 = logits_of(quantized(fp32_path, images, method=method), images)
    assert (fp32.argmax(axis=1) == int8.argmax(axis=1)).mean() > 0.9
    limit = 0.35 if method == "entropy" else 0.25  # it cuts off large values, how many differs by machine
    assert np.abs(fp32 - int8).mean() < limit * fp32.std(axis=0).mean()


@pytest.mark.parametrize("method", METHODS[1:])
def test_each_method_chooses_ranges_of_its_own(
    fp32_path: Path, int8_path: Path, images: np.ndarray, method: str
) -> None:
    assert quantized(fp32_path, images, method=method).read_bytes() != int8_path.read_bytes()


def test_every_batch_of_calibration_images_counts(fp32_path: Path, int8_path: Path, images: np.ndarray) -> None:
    backwards = quantized(fp32_path, images[::-1], method="minmax")
    assert {i.name: i.raw_data for i in onnx.load(backwards).graph.initializer} == {
        i.name: i.raw_data for i in onnx.load(int8_path).graph.initializer
    }


def test_weights_keep_to_7_bits_only_where_asked(fp32_path: Path, images: np.ndarray) -> None:
    for reduce_range, limit in ((True, 64), (False, 127)):
        path = quantized(fp32_path, images, method="minmax", reduce_range=reduce_range)
        weights = [
            onnx.numpy_helper.to_array(tensor).astype(int)
            for tensor in onnx.load(path).graph.initializer
            if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4
        ]
        assert len(weights) == 66
        assert max(np.abs(weight).max() for weight in weights) == limit


def test_int8_net_has_no_float_island(int8_path: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(int8_path, options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("QLinearConv") == 66
    assert operators.count("QLinearConcat") == 9
    assert operators.count("Conv") == operators.count("Concat") == 0
    assert operators.count("QuantizeLinear") == 2  # after the normalization and after the mean
    assert operators.count("DequantizeLinear") == 1  # before the mean


def test_short_names_change_no_logit(int8_path: Path, named_path: Path, images: np.ndarray) -> None:
    assert np.array_equal(logits_of(int8_path, images), logits_of(named_path, images))
    assert int8_path.stat().st_size < named_path.stat().st_size - 50_000


def test_layers_keep_their_names_in_int8(model: GoogLeNet, int8_path: Path) -> None:
    nodes = onnx.load(int8_path).graph.node
    assert {node.name for node in nodes if node.op_type in ("Conv", "Gemm")} == set(model.layers())


def test_int8_file_is_smaller(fp32_path: Path, int8_path: Path) -> None:
    # Tiny nets have more names than weights.
    assert int8_path.stat().st_size < fp32_path.stat().st_size


def test_equal_layers_are_quantized_each_with_a_bias_of_its_own(
    model: GoogLeNet, images: np.ndarray, tmp_path: Path
) -> None:
    model = copy.deepcopy(model)
    layers = model.layers()
    layers["blocks.6.branch3.2"].load_state_dict(layers["blocks.5.branch3.2"].state_dict())
    export_onnx(model, tmp_path / "fp32.onnx", classes=CLASSES, image_size=32)
    nodes = [node for node in onnx.load(tmp_path / "fp32.onnx").graph.node if node.op_type in ("Conv", "Gemm")]
    assert len({node.input[1] for node in nodes}) < len({node.input[2] for node in nodes}) == len(nodes)
    int8 = quantized(tmp_path / "fp32.onnx", images, method="minmax", bias_correction=True)
    fp32 = logits_of(tmp_path / "fp32.onnx", images)
    assert (fp32.argmax(axis=1) == logits_of(int8, images).argmax(axis=1)).mean() > 0.9


def test_wrong_number_of_class_names_is_refused(model: GoogLeNet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"classes must be 10 names, .* got 2"):
        export_onnx(model, tmp_path / "x.onnx", classes=["a", "b"], image_size=32)
    assert not list(tmp_path.iterdir())


def test_a_factorized_net_is_quantized_whole_and_agrees_with_pytorch(
    model: GoogLeNet, images: np.ndarray, tmp_path: Path
) -> None:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    layers = ["stem.1", "blocks.0.branch1", "blocks.0.branch2.1", "linear"]
    factorized = factorize(model, pixels, macs_ratio=0.95, layers=layers, round_to=1)
    export_onnx(factorized, tmp_path / "fp32.onnx", classes=CLASSES, image_size=32)
    with torch.inference_mode():
        expected = factorized(pixels).numpy()
    fp32 = logits_of(tmp_path / "fp32.onnx", images)
    assert np.allclose(fp32, expected, atol=1e-4)
    int8 = logits_of(quantized(tmp_path / "fp32.onnx", images, method="minmax"), images)
    assert (fp32.argmax(axis=1) == int8.argmax(axis=1)).mean() > 0.9


def test_a_sparse_net_keeps_its_zeros_and_has_none_with_a_sign(
    model: GoogLeNet, images: np.ndarray, tmp_path: Path
) -> None:
    export_onnx(prune_weights(model, sparsity=0.8), tmp_path / "fp32.onnx", classes=CLASSES, image_size=32)
    for path in (tmp_path / "fp32.onnx", quantized(tmp_path / "fp32.onnx", images, method="minmax")):
        weights = [
            onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 4
        ]
        zeros = np.concatenate([weight[weight == 0] for weight in weights])
        assert len(zeros) > 0.7 * sum(weight.size for weight in weights)
        assert not np.signbit(zeros).any()


def test_bias_correction_makes_up_for_the_mean_error_of_rounded_weights(
    model: GoogLeNet, named_path: Path, fp32_path: Path, images: np.ndarray
) -> None:
    fp32, int8 = onnx.load(fp32_path), onnx.load(named_path)
    corrected = correct_biases(fp32, int8, images)
    before, rounded, after = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        for proto in (fp32, int8, corrected)
    )
    first = next(node for node in fp32.graph.node if node.op_type == "Conv")
    _, weight, bias = first.input
    lost = before[weight] - rounded[f"{weight}_quantized"] * rounded[f"{weight}_scale"].reshape(-1, 1, 1, 1)
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - model.mean) / model.std
    errors = nn.functional.conv2d(pixels, torch.from_numpy(lost.astype(np.float32)), padding=1)
    assert np.allclose(after[bias] - before[bias], errors.mean(dim=(0, 2, 3)), atol=1e-6)
    assert np.abs(after[bias] - before[bias]).max() > 1e-5


@pytest.mark.parametrize(("bias_correction", "reduce_range"), [(True, True), (False, True), (True, False)])
def test_the_chosen_file_is_made_as_asked(
    fp32_path: Path, images: np.ndarray, tmp_path: Path, bias_correction: bool, reduce_range: bool
) -> None:
    labels = (np.arange(40) + (np.arange(40) < 7)) % 10  # the first seven are wrong
    facts = choose_calibration(
        fp32_path,
        tmp_path / "int8.onnx",
        calibration=images,
        validation=Images(images, labels, CLASSES),
        recipe=Quantize(
            calibration_images=[40],
            calibration_methods=["minmax"],
            bias_correction=bias_correction,
            weight_rounding="nearest",
            reduce_range=reduce_range,
        ),
    )
    files = {
        corrected: quantized(
            fp32_path, images, method="minmax", bias_correction=corrected, reduce_range=reduce_range
        ).read_bytes()
        for corrected in (True, False)
    }
    assert files[True] != files[False]
    assert (tmp_path / "int8.onnx").read_bytes() == files[bias_correction]
    assert facts["bias_correction"] is bias_correction
    wrong = logits_of(fp32_path, images).argmax(axis=1) != labels
    assert facts["fp32_val_error_pct"] == pytest.approx(100 * wrong.mean())


def test_coarse_weights_stay_the_whole_multiples_that_they_are(
    model: GoogLeNet, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "_shortened", lambda model: model)
    coarse = copy.deepcopy(model)
    for parameter in coarse.parameters():
        if parameter.dim() > 1:
            parameter.data = round_weights(parameter.data, levels=7)
    export_onnx(coarse, tmp_path / "fp32.onnx", classes=CLASSES, image_size=32)
    choose_calibration(
        tmp_path / "fp32.onnx",
        tmp_path / "int8.onnx",
        calibration=images,
        validation=Images(images, np.arange(40) % 10, CLASSES),
        recipe=Quantize(calibration_images=[40], calibration_methods=["minmax"], weight_rounding="nearest"),
        weight_levels=7,
    )
    before, after = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / name).graph.initializer}
        for name in ("fp32.onnx", "int8.onnx")
    )
    names = [name.removesuffix("_quantized") for name in after if name.endswith("weight_quantized")]
    assert len(names) == 67  # 66 convolutions and the linear layer
    for name in names:
        levels, scale = after[f"{name}_quantized"], after[f"{name}_scale"]
        assert np.abs(levels).max() == 7
        restored = levels * scale.reshape(-1, *[1] * (levels.ndim - 1))
        assert np.allclose(restored, before[name], atol=1e-4 * np.abs(before[name]).max())


@pytest.mark.parametrize("method", ["MinMax", "Percentile", "Entropy"])
def test_a_method_is_the_one_of_its_name(fp32_path: Path, images: np.ndarray, method: str) -> None:
    with quantization._prepared(fp32_path) as prepared:
        ((_, ranges),) = activation_ranges(prepared, images[:4], counts=[4], method=method.lower())
    assert ranges.calibration_method is CalibrationMethod[method]


def test_the_calibration_that_changes_the_logits_least_on_validation_images_is_written(
    fp32_path: Path, images: np.ndarray, tmp_path: Path
) -> None:
    facts = choose_calibration(
        fp32_path,
        tmp_path / "int8.onnx",
        calibration=images,
        validation=Images(images, np.arange(40) % 10, CLASSES),
        recipe=Quantize(
            calibration_images=[8, 1000], calibration_methods=["minmax", "percentile"], weight_rounding="nearest"
        ),
    )
    tried = [(c["logits_mse"], c["images"]) for c in facts["candidates"]]
    assert [images for _, images in tried] == [8, 40, 8, 40]  # no more than there are
    assert (facts["logits_mse"], facts["calibration_images"]) == min(tried)  # of equal ones the fewest images
    logits = logits_of(tmp_path / "int8.onnx", images)
    mse = np.square(logits - logits_of(fp32_path, images)).mean()
    assert facts["logits_mse"] == pytest.approx(mse, rel=1e-3)
    written = (logits.argmax(axis=1) != np.arange(40) % 10).mean()
    assert facts["val_error_pct"] == pytest.approx(100 * written)
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


@pytest.mark.parametrize("tiny", [1e-3, 1e-6, 1e-30])
def test_a_layer_that_is_nearly_dead_at_first_takes_no_more_memory(tiny: float) -> None:
    symmetric = CALIBRATORS["percentile"][1]["symmetric"]
    collector = BoundedHistograms("percentile", symmetric, 2048, 128, 99.999, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        for largest in (0, tiny, 5, 7):
            collector.collect({"relu": np.linspace(0, largest, 100, dtype=np.float32)})
        low, high = collector.compute_collection_result()["relu"][:2]
    counts = collector.histogram_dict["relu"][0]
    assert len(counts) <= MOST_GROWTH * 2048 and counts.sum() == 400
    assert abs(low) < 0.01 and high == pytest.approx(7, abs=0.02)
