"""A run to make a report from."""

from pathlib import Path

import pytest

from tests.report.run import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The recorded run's parameters, CIFAR-100, in a folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return Run()
