"""The whole pipeline on tiny data, through DVC itself."""

import json
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest
import torch

from stages.lib.images import channel_statistics, random_batch, read_images, split_validation
from stages.lib.models import MODELS, PRECISIONS, variant_name
from stages.lib.network.checkpoint import load_model
from stages.lib.pruning.batch_norm import reestimate_batch_norm
from stages.lib.runtime.session import classify, error_pct, open_session
from tests.repository import Repository, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository(finished: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository in which everything has run once."""
    return finished.duplicate(tmp_path_factory.mktemp("pipeline"))


def test_metrics_have_the_promised_keys_for_every_variant(repository: Repository) -> None:
    metrics = json.loads((repository.path / "metrics.json").read_text())
    assert set(metrics) == {variant_name(model, precision) for model in MODELS for precision in PRECISIONS}
    for variant in metrics.values():
        assert {
            "top1_error_pct", "top5_error_pct", "num_parameters", "num_nonzero_parameters", "macs", "file_bytes",
        } <= set(variant)  # fmt: skip
    assert metrics["structured"]["num_parameters"] < metrics["base"]["num_parameters"]
    assert metrics["unstructured"]["num_nonzero_parameters"] < metrics["base"]["num_nonzero_parameters"] / 3
    assert metrics["lowrank"]["macs"] < metrics["base"]["macs"]
    assert metrics["distilled"]["num_parameters"] < metrics["base"]["num_parameters"]
    assert metrics["base-int8"]["file_bytes"] < metrics["base"]["file_bytes"]
    assert metrics["unstructured"]["file_bytes"] < metrics["base"]["file_bytes"] / 2  # packed


def test_errors_are_those_of_the_images_that_they_are_said_to_be_of(repository: Repository) -> None:
    train, test = (read_images(repository.path / "data" / f"{split}.npz") for split in ("train", "test"))
    kept, validation = split_validation(train, per_class=2, seed=0)
    artifacts = repository.path / "artifacts"
    for precision in ("fp32", "int8"):
        session = open_session(artifacts / precision / "base.onnx", threads=1)
        evaluation = json.loads((artifacts / "evaluation" / f"base-{precision}.json").read_text())
        logits = classify(session, test.pixels, batch_size=16)
        for top in (1, 5):
            assert evaluation[f"top{top}_error_pct"] == pytest.approx(error_pct(logits, test.labels, top=top))
        quantization = json.loads((artifacts / "quantization" / "base.json").read_text())
        key = {"fp32": "fp32_val_error_pct", "int8": "val_error_pct"}[precision]
        logits = classify(session, validation.pixels[:], batch_size=16)
        assert quantization[key] == pytest.approx(error_pct(logits, validation.labels, top=1))
    mean, _ = channel_statistics(kept)
    base = load_model(artifacts / "models" / "base.safetensors")
    assert base.mean.flatten().tolist() == pytest.approx(mean.tolist(), abs=1e-6)


@pytest.mark.parametrize("model", ["structured", "unstructured", "lowrank"])
def test_statistics_of_batch_normalization_are_those_of_the_compressed_model(
    repository: Repository, model: str
) -> None:
    train, _ = split_validation(read_images(repository.path / "data" / "train.npz"), per_class=2, seed=0)
    compressed = load_model(repository.path / "artifacts" / "compressed" / f"{model}.safetensors")
    measured = reestimate_batch_norm(compressed, random_batch(train, 16, seed=0)[0]).state_dict()
    for name, tensor in compressed.state_dict().items():
        if "running" in name:
            assert torch.allclose(tensor, measured[name], rtol=1e-2, atol=1e-3), name


def test_the_profile_has_a_median_of_each_round_between_the_extremes(repository: Repository) -> None:
    profile = json.loads((repository.path / "artifacts" / "profile.json").read_text())
    for cost in profile["variants"].values():
        assert cost["latency_cpu_p5_ms"] <= cost["latency_cpu_ms"] <= cost["latency_cpu_p95_ms"]
        assert cost["latency_rounds_ms"] == [pytest.approx(cost["latency_cpu_ms"])]  # there is one round


def test_git_sees_the_results_that_belong_in_it_and_no_weights(repository: Repository) -> None:
    tracked = repository.run("git", "ls-files").split()
    assert {"dvc.lock", "metrics.json", "reports/report.md", "reports/curves/structured.csv"} <= set(tracked)
    assert not [name for name in tracked if name.endswith((".safetensors", ".onnx", ".npz"))]


def test_a_second_run_does_nothing(repository: Repository) -> None:
    assert repository.repro() == set()
    assert repository.run("git", "status", "--porcelain") == ""


def test_pruning_less_leaves_training_alone_and_going_back_restores_from_the_cache(repository: Repository) -> None:
    before = (repository.path / "metrics.json").read_bytes()
    repository.set(prune__ratio=0.4)
    ran = repository.repro()
    assert {"prune", "finetune@structured", "report"} <= ran
    assert not {"download", "train", "sparsify", "finetune@unstructured", "quantize@base", "pack@unstructured"} & ran
    diff = json.loads(repository.run("dvc", "metrics", "diff", "--json"))["metrics.json"]
    assert diff["structured.num_parameters"]["diff"] < 0
    assert "unstructured.num_parameters" not in diff
    repository.set(prune__ratio=0.2)
    assert not {"prune", "finetune@structured", "quantize@structured", "profile"} & repository.repro()
    assert (repository.path / "metrics.json").read_bytes() == before


def test_plots_show_the_curves(repository: Repository) -> None:
    repository.run("dvc", "plots", "show", "--out", "plots")
    assert "val_error_pct" in (repository.path / "plots" / "index.html").read_text()
    shutil.rmtree(repository.path / "plots")


def test_a_clone_with_the_pushed_models_trains_nothing(repository: Repository, tmp_path: Path) -> None:
    repository.run("dvc", "push")
    clone = Repository(tmp_path / "clone")
    repository.run("git", "clone", "--quiet", str(repository.path), str(clone.path))
    shutil.copytree(repository.path / "models", clone.path / "models")
    clone.run("dvc", "pull", "--allow-missing")
    assert (clone.path / "artifacts" / "models" / "base.safetensors").exists()
    assert not (clone.path / "data" / "train.npz").exists()
    assert "Running stage" not in clone.run("dvc", "repro", "--allow-missing")
    output = clone.run("dvc", "exp", "run", "--name", "more", "--set-param", "prune.ratio=0.3")
    assert "Running stage 'download'" in output and "Running stage 'finetune@structured'" in output
    assert "Running stage 'train'" not in output
    assert "num_parameters" in clone.run("dvc", "metrics", "diff")
    assert "more" in clone.run("dvc", "exp", "show", "--csv")


@pytest.mark.parametrize("options", [(), ("--force",)])
@pytest.mark.parametrize("change", [{"finetune__lr": "fast"}, {"train__epcohs": 1}])
def test_a_mistake_anywhere_stops_the_run_and_loses_nothing(
    repository: Repository, change: dict[str, object], options: tuple[str, ...]
) -> None:
    repository.set(**change)
    output = repository.run("dvc", "repro", *options, code=255)
    assert f"params.yaml: {next(iter(change)).replace('__', '.')}" in output
    assert "Traceback" not in output
    assert output.count("Running stage") == 1  # the first to run checks the whole file
    repository.go_back()
    assert repository.repro() == set()


@pytest.mark.parametrize("between", [True, False], ids=["shell between", "no shell between"])
def test_a_stage_ends_with_its_dvc_and_goes_on_when_called_again(
    repository: Repository, tmp_path: Path, between: bool
) -> None:
    # Some shells become the stage, others wait for it; DVC calls the one named by SHELL.
    waiting_shell = tmp_path / "sh"
    waiting_shell.write_text('#!/bin/sh\n/bin/sh "$@"; exit $?\n')
    waiting_shell.chmod(0o755)
    repository.set(train__epochs=60 + between)  # another count: DVC would restore the first from its run cache
    environment = {**repository.environment, "SHELL": str(waiting_shell) if between else "/bin/bash"}
    dvc = subprocess.Popen(["dvc", "repro", "train"], cwd=repository.path, env=environment)
    resume = repository.path.parent / "resume"
    wait_until(lambda: list(resume.glob("*.safetensors")))
    stages = psutil.Process(dvc.pid).children(recursive=True)
    assert any("stages.train" in stage.cmdline() for stage in stages)
    dvc.kill()
    dvc.wait()
    assert psutil.wait_procs(stages, timeout=30)[1] == []
    assert "resuming at step" in repository.run("dvc", "repro", "train")
    assert list(resume.glob("*.safetensors")) == []
    repository.go_back()
