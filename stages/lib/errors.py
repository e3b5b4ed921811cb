"""How a stage ends when something is wrong with what it was given."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors(stage: str) -> Iterator[None]:
    """End the process with one line and exit code 1 on a ValueError or OSError, which the library words for users."""
    try:
        yield
    except (ValueError, OSError) as error:
        # Messages of libraries may have several lines.
        sys.exit(f"{stage}: {' '.join(str(error).split())}")
