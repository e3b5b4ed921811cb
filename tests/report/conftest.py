"""What the tests of the report share."""

from pathlib import Path

import pytest
from made_up_run import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that is made up, in a folder that is made the current one."""
    monkeypatch.chdir(tmp_path)
    return Run()
