"""Files that appear whole or not at all, and the folder for what must outlive a stage."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed to it if the block succeeds and deleted if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # one name: what a killed process left is overwritten
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """The user's cache folder for this project, where downloads and resume files outlive a stage."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "googlenet-compression"
