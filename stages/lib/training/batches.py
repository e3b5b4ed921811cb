"""The batches of a training, each the same whenever its step is taken."""

import numpy as np
import torch
from torch import Tensor

from stages.lib.images import Images
from stages.lib.schema import Recipe, StudentRecipe
from stages.lib.training import augmentation, schedule
from stages.lib.training.devices import memory_bytes
from stages.lib.training.distributed import num_processes

MEMORY_SHARE = 0.25  # the most of the device's memory that images may take


class Batches:
    """Images that live on the device, and what each step sees of them.

    Attributes:
        batch_size: Of all processes together; at most the number of images.
        steps_per_epoch: An epoch's last incomplete batch is left out.
        num_steps: Of the whole training, at least 1.
    """

    def __init__(self, train: Images, *, recipe: Recipe, fill: Tensor) -> None:
        """Put the labels on the device of `fill`, the colour of what augmentation leaves empty, (3, 1, 1).

        Raises:
            ValueError: If the processes can't share a batch evenly.
        """
        self.batch_size = min(recipe.batch_size, len(train))
        if self.batch_size % num_processes():
            raise ValueError(
                f"batch_size must be a multiple of the {num_processes()} processes that share a batch, "
                f"got {self.batch_size}; change it or their number"
            )
        self.steps_per_epoch = len(train) // self.batch_size
        self.num_steps = max(1, round(recipe.epochs * self.steps_per_epoch))
        self._recipe, self._fill = recipe, fill
        self._views = recipe.teacher_views if isinstance(recipe, StudentRecipe) else 0
        self._pixels, self._full_size = train.pixels, train.size
        self._labels = torch.from_numpy(train.labels).to(fill.device)
        self._num_classes = len(train.classes)
        self._images, self._size = torch.empty(0), 0
        self._order, self._epoch = torch.empty(0), -1

    def image_size(self, step: int) -> int:
        """Side of the images of a step, in pixels."""
        return schedule.image_size(
            step, recipe=self._recipe, steps_per_epoch=self.steps_per_epoch, full_size=self._full_size
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images, float (B, 3, S, S) in [0, 1], and targets, float (B, num_classes), of a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._views:
            epoch %= self._views
        mixed = (self._recipe.epochs - self._recipe.augmentation.mix_off_epochs) * self.steps_per_epoch
        if epoch != self._epoch:
            order = np.random.default_rng((self._recipe.seed, epoch)).permutation(len(self._labels))
            self._order, self._epoch = torch.from_numpy(order).to(self._fill.device), epoch
        size = self.image_size(step)
        indices = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        padded, labels, indices = self._padded(size, indices)
        # Dropout draws from the same generator, so this covers the whole step.
        torch.manual_seed(np.random.SeedSequence((self._recipe.seed, epoch, position)).generate_state(1)[0].item())
        return augmentation.augment(
            padded,
            labels,
            indices,
            size=size,
            num_classes=self._num_classes,
            recipe=self._recipe.augmentation,
            mix=step < mixed,
            fill=self._fill,
        )

    def _padded(self, size: int, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images of this size with a border, uint8, their labels, and which of them are those at `indices`.

        All images, which then stay on the device, or those of the batch alone where all would take too much memory.
        """
        padding = round(self._recipe.augmentation.crop_padding * size / augmentation.UNIT)
        device = self._fill.device
        if len(self._labels) * (size + 2 * padding) ** 2 * 3 > MEMORY_SHARE * memory_bytes(device):
            pixels = self._pixels[indices.cpu().numpy()]
            padded = augmentation.resident(pixels, size=size, padding=padding, device=device)
            return padded, self._labels[indices], torch.arange(len(indices), device=device)
        if size != self._size:
            self._images = augmentation.resident(self._pixels, size=size, padding=padding, device=device)
            self._size = size
        return self._images, self._labels, indices
