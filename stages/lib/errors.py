"""How a stage ends when something is wrong with what it was given, or when it is interrupted."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors(stage: str) -> Iterator[None]:
    """End the process with one line on what the library words for users: a ValueError or OSError, exit code 1.

    Ctrl-C ends it in one line, too, with 130, where nothing is to be saved.
    """
    try:
        yield
    except FileNotFoundError as error:
        sys.exit(f"{stage}: {error.filename or _one_line(error)} is missing; dvc repro makes it first")
    except (ValueError, OSError) as error:
        sys.exit(f"{stage}: {_one_line(error)}")
    except KeyboardInterrupt:
        print(f"{stage}: interrupted, nothing written; the same command starts it anew", file=sys.stderr)
        sys.exit(130)


def _one_line(error: Exception) -> str:
    """Its message; those of libraries may have several lines."""
    return " ".join(str(error).split())
