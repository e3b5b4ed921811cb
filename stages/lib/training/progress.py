"""Progress of a long run: a bar on a terminal, one aligned line an epoch everywhere, the time left in both."""

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Self

from tqdm import tqdm

LOSS_EVERY_S = 2
LINE = (
    "epoch {epoch:3g}/{epochs:g}  loss {train_loss:6.3f}  val error {val_error_pct:6.2f} %, "
    "{val_error_at_size_pct:6.2f} at {image_size} px  lr {lr:.5f}  {images_per_s:8,.0f} images/s  left {left}"
)


class Progress:
    """Counts steps whose costs differ, so that the time left holds when the images grow during training.

    Args:
        costs: Relative cost of each step.
        first_step: Where this process begins.
        epochs: Of the whole run.
        quiet: Whether nothing is shown, because another process shows it.
    """

    def __init__(self, costs: Sequence[float], *, first_step: int, epochs: float, quiet: bool = False) -> None:
        self._quiet = quiet
        self._costs = costs
        self._epochs = epochs
        self._left = sum(costs[first_step:])
        self._done = 0.0
        self._started = time.monotonic()
        self._bar = tqdm(
            total=sum(costs),
            initial=sum(costs[:first_step]),
            disable=True if quiet else None,  # None: shown on a terminal only
            leave=False,
            bar_format="{percentage:3.0f}% |{bar}| {elapsed} < {remaining}{postfix}",
        )
        self._shown = self._started
        self.start_epoch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def start_epoch(self) -> None:
        """Start counting images for `images_per_s`."""
        self._epoch_started = time.monotonic()
        self._epoch_images = 0

    def advance(self, step: int, *, images: int) -> None:
        """Step `step` is done."""
        self._done += self._costs[step]
        self._left -= self._costs[step]
        self._epoch_images += images
        self._bar.update(self._costs[step])

    def wants_loss(self) -> bool:
        """Whether the bar's figures are old; asking for a loss makes the device wait, so it is done rarely."""
        return not self._bar.disable and time.monotonic() - self._shown > LOSS_EVERY_S

    def show(self, *, loss: float) -> None:
        """Put the loss and the speed on the bar."""
        self._shown = time.monotonic()
        self._bar.set_postfix_str(f"loss {loss:.3f}, {self.images_per_s():,.0f} images/s")

    def images_per_s(self) -> float:
        """Training images a second since the epoch began, or since this process did."""
        return self._epoch_images / max(time.monotonic() - self._epoch_started, 1e-9)

    def report(self, row: Mapping[str, float]) -> None:
        """Print the line of an epoch, a row of the curve."""
        if self._quiet:
            return
        elapsed = time.monotonic() - self._started
        left = timedelta(seconds=round(elapsed * self._left / self._done)) if self._done else "?"
        tqdm.write(LINE.format(**row, epochs=self._epochs, left=left))
        sys.stdout.flush()  # a log should show it now
