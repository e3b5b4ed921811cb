"""How a stage ends when something is wrong with what it was given, or when it is interrupted."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors(stage: str) -> Iterator[None]:
    """End the process with one line and exit code 1 on a ValueError or OSError, which the library words for users.

    A GPU whose memory is full ends it likewise, in words of ours.
    Ctrl-C ends it with one line, too, and 130; training, which saves its state first, has a line of its own.
    """
    try:
        yield
    except FileNotFoundError as error:
        sys.exit(f"{stage}: {error.filename or _one_line(error)} is missing; dvc repro makes it first")
    except (ValueError, OSError) as error:
        sys.exit(f"{stage}: {_one_line(error)}")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which not every stage imports
            raise
        sys.exit(f"{stage}: batch_size must fit the memory of the GPU, where no more is free; lower it in params.yaml")
    except KeyboardInterrupt:
        print(f"{stage}: interrupted; the same command starts it anew", file=sys.stderr)
        sys.exit(130)


def _one_line(error: Exception) -> str:
    """Its message; those of libraries may have several lines."""
    return " ".join(str(error).split())
