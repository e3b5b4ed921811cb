"""A finished run: all that the other stages leave for the report, with made-up numbers."""

import json
from pathlib import Path
from typing import Any

import yaml

from stages.lib import artifacts
from stages.lib.artifacts import write_json
from stages.lib.models import MODELS, PRECISIONS, variant_name
from stages.lib.params import PARAMS_FILE, load_params, render_params
from stages.lib.report.files import Accuracy
from stages.lib.report.render import render_report
from stages.lib.report.results import Results, read_results

ROOT = Path(__file__).parents[2]
NUM_IMAGES = 1000
ROUNDS = 3
ERRORS_PCT = dict.fromkeys(MODELS, 23.2) | {"base": 22.9, "structured": 23.5, "lowrank": 23.0, "distilled": 30.0}
LATENCIES_MS = dict.fromkeys(MODELS, 6.0) | {"structured": 4.0, "lowrank": 3.0, "distilled": 1.0}
MEGABYTES_INT8 = dict.fromkeys(MODELS, 6.4) | {"structured": 4.0, "lowrank": 4.6, "distilled": 0.8}
PARAMETERS = {name: round(1e6 * megabytes) for name, megabytes in MEGABYTES_INT8.items()}
SUPERCLASSES = yaml.safe_load((ROOT / "stages/lib/report/superclasses.yaml").read_text(encoding="utf-8"))
CLASSES = [name for names in SUPERCLASSES.values() for name in names]  # neighbours are mostly of one superclass
HEADER = "epoch,train_loss,val_error_pct,image_size,val_error_at_size_pct"


def accuracy(*missed: range, num_images: int = NUM_IMAGES) -> dict[str, Any]:
    """Of a model that misses the images of these ranges."""
    images = {image for numbers in missed for image in numbers}
    labels = [image % len(CLASSES) for image in range(num_images)]
    predictions = [(label + (image in images)) % len(CLASSES) for image, label in enumerate(labels)]
    return {
        "top1_error_pct": 100 * len(images) / num_images,
        "top5_error_pct": 6.126,
        "calibration_error_pct": 3.214,
        "num_images": num_images,
        "classes": CLASSES,
        "labels": " ".join(map(str, labels)),
        "predictions": " ".join(map(str, predictions)),
        "file_sha256": "ab12",
    }


def measured(*missed: range, num_images: int = NUM_IMAGES) -> Accuracy:
    return Accuracy.model_validate(accuracy(*missed, num_images=num_images))


def latencies(name: str, median_ms: float) -> dict[str, Any]:
    """The same in each round."""
    return {f"latency_{name}_ms": median_ms, "latency_rounds_ms": [median_ms] * ROUNDS}


class Run:
    """The files of a run in the current folder, which belongs to the test."""

    def __init__(self, preset: str = "reference") -> None:
        params = load_params(ROOT / "presets" / f"{preset}.yaml", complete=False)
        PARAMS_FILE.write_text(render_params(params), encoding="utf-8")
        for model in MODELS:
            for precision in PRECISIONS:
                num_missed = round(NUM_IMAGES * ERRORS_PCT[model] / 100) + (precision == "int8")
                write_json(artifacts.evaluation_path(model, precision), accuracy(range(num_missed)))
            write_json(artifacts.training_path(model), self._training())
            write_json(artifacts.quantization_path(model), self._quantization(model))
            self.write_curve(model, HEADER, "0,,85.1,," if model != "base" else "1,4.5,90,24,", "2,1.2,23.5,32,23.5")
            if MODELS[model].finetuned:
                write_json(artifacts.compression_path(model), self._compression(model))
        write_json(artifacts.profile_path(), self._profile())
        write_json(artifacts.cuda_profile_path(), {"models": {}})
        write_json(artifacts.adoption_path(), {"models": {}})
        write_json(artifacts.adopted_evaluation_path(), {"variants": {}})

    @staticmethod
    def results() -> Results:
        return read_results(load_params())

    def render(self, findings: str = "") -> str:
        return render_report(self.results(), findings=findings)

    @staticmethod
    def set(**values: object) -> None:
        """Change parameters, as `section__name=value`."""
        params = yaml.safe_load(PARAMS_FILE.read_text(encoding="utf-8"))
        for name, value in values.items():
            section, _, key = name.partition("__")
            if key:
                params[section][key] = value
            else:
                params[section] = value
        PARAMS_FILE.write_text(yaml.safe_dump(params), encoding="utf-8")

    @staticmethod
    def change(path: Path, *keys: str, **values: object) -> None:
        """Change values in a file, in the object that `keys` lead to."""
        content = place = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            place = place[key]
        place |= values
        write_json(path, content)

    def add_gpu(self, **changes: object) -> None:
        """Measure the base on a GPU."""
        cost = {
            "checkpoint_sha256": "base-digest",
            "gpu": "Example GPU",
            "latency_cuda_ms": 1.5,
            "profiler_cuda_ms": 1.25,
        }
        write_json(artifacts.cuda_profile_path(), {"models": {"base": cost | changes}})

    def adopt(self, name: str) -> None:
        """Quantize and measure a classifier from elsewhere."""
        self.set(external={name: {"path": "model.onnx"}})
        facts = self._quantization("base") | {"num_parameters": 11_000_000}
        facts |= {"macs": 145_000_000, "float_layers": ["conv1"]}
        write_json(artifacts.adoption_path(), {"models": {name: facts}})
        variants = {name: accuracy(range(100)), f"{name}-int8": accuracy(range(120))}
        write_json(artifacts.adopted_evaluation_path(), {"variants": variants})
        costs = self._profile()["variants"]
        adopted = {name: costs["base"], f"{name}-int8": costs["base-int8"]}
        self.change(artifacts.profile_path(), adopted=adopted)

    def add_machine(self, name: str, **latencies_ms: float) -> None:
        """Measure variants on another machine."""
        variants = {
            key.replace("_", "-"): {"file_sha256": "ab12", "latency_cpu_ms": value}
            for key, value in latencies_ms.items()
        }
        write_json(artifacts.MACHINES / "other.json", {"machine": name, "variants": variants})

    def change_cost(self, variant: str, **values: object) -> None:
        self.change(artifacts.profile_path(), "variants", variant, **values)

    @staticmethod
    def write_curve(model: str, *lines: str) -> None:
        artifacts.curve_path(model).parent.mkdir(parents=True, exist_ok=True)
        artifacts.curve_path(model).write_text("\n".join([*lines, ""]), encoding="utf-8")

    @staticmethod
    def _training() -> dict[str, Any]:
        counts = {"num_train_images": 45_000, "num_val_images": 5000}
        return {"seconds": 4321.0, "device": "CPU, 2 threads", "precision": "fp32", **counts}

    @staticmethod
    def _quantization(model: str) -> dict[str, Any]:
        chosen = {"calibration_method": "percentile", "calibration_images": 256, "bias_correction": True}
        errors = {"val_error_pct": 23.1, "fp32_val_error_pct": 22.8, "candidates": [{}, {}]}
        errors["float_layers"] = []
        errors["layers"] = [{"name": "stem.0", "error_pct": 1.234}, {"name": "linear", "error_pct": 5.678}]
        return chosen | errors | {"packed_bytes": {"fp32": 3 * PARAMETERS[model], "int8": PARAMETERS[model]}}

    @staticmethod
    def _compression(model: str) -> dict[str, Any]:
        widths = [48 if model == "structured" else 64] * 4
        return {"widths": widths, "base_widths": [64] * 4, "ranks": [0, 16, 24, 0, 0] if model == "lowrank" else []}

    @staticmethod
    def _profile() -> dict[str, Any]:
        flags = {"avx2": True, "avx512f": False, "avx512_vnni": False, "avx_vnni": False}
        versions = {"os": "Linux", "python": "3.12.3", "torch": "2.14.1", "onnxruntime": "1.32.0"}
        variants = {}
        for model, num_parameters in PARAMETERS.items():
            for precision in PRECISIONS:
                size = num_parameters * (4 if precision == "fp32" else 1)
                latency = LATENCIES_MS[model] / (1 if precision == "fp32" else 2)
                variants[variant_name(model, precision)] = {
                    "num_parameters": num_parameters,
                    "num_nonzero_parameters": num_parameters // (5 if model == "unstructured" else 1),
                    "macs": 340_000_000 if model == "structured" else 530_000_000,
                    "file_bytes": size // (5 if MODELS[model].packed else 1),
                    "latency_cpu_p5_ms": 0.97 * latency,
                    "latency_cpu_p95_ms": 1.08 * latency,
                    "memory_mb": 38.264,
                    "images_per_s_1_thread": 512.3,
                    "images_per_s": 987.6,
                    "layers_us": {"stem.0": 12.3, "linear": 4.5, "concatenation": 1.2, "pooling": 2.3, "rest": 3.4},
                    **latencies("cpu", latency),
                }
        eager = {
            model: {
                "checkpoint_bytes": 4 * PARAMETERS[model],
                "checkpoint_sha256": f"{model}-digest",
                "memory_mb": 71.3,
                "profiler_cpu_ms": 4 * latency,
                **latencies("eager", 3 * latency),
            }
            for model, latency in LATENCIES_MS.items()
        }
        return {
            "machine": {"cpu": "Example CPU @ 2 GHz", "threads": 2, **flags, **versions},
            "rounds": ROUNDS,
            "calls_per_round": 20,
            "batch_size": 64,
            "variants": variants,
            "adopted": {},
            "eager": eager,
        }
