"""Starting a training stage under torchrun, without another command in dvc.yaml."""

import os
import shlex
import sys

LAUNCHER = "TRAIN_LAUNCHER"


def relaunch(module: str) -> None:
    """Start `python -m module` anew under the command in the environment variable TRAIN_LAUNCHER, if there is one.

    Raises:
        ValueError: If the command can't be started.
    """
    launcher = shlex.split(os.environ.get(LAUNCHER, ""))
    if not launcher or "LOCAL_RANK" in os.environ:
        return
    sys.stdout.flush()
    try:
        os.execvp(launcher[0], [*launcher, "-m", module, *sys.argv[1:]])  # the same process, so DVC's signals reach it
    except OSError as error:
        raise ValueError(
            f"{LAUNCHER} must be a command such as 'torchrun --nproc-per-node 2', got {shlex.join(launcher)!r} "
            f"({error.strerror}); mend or unset it"
        ) from None
