"""One training in progress: its tensors, and the step that changes them.

All randomness of a step comes from (seed, epoch, position in the epoch), so the tensors are all the state there is.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from stages.lib.images import Images
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.schema import Compute, Recipe, StudentRecipe
from stages.lib.training import schedule
from stages.lib.training.batches import Batches
from stages.lib.training.cuda_graph import CudaGraph
from stages.lib.training.devices import keep_freed_memory, pick_device, pick_precision, tune_cuda
from stages.lib.training.distillation import distillation_loss
from stages.lib.training.distributed import mean_over_processes, num_processes, rank, synchronize_batch_norm
from stages.lib.training.muon import Muon
from stages.lib.training.resume import code_of, fingerprint
from stages.lib.training.teacher import TeacherLogits


class MaskSchedule(Protocol):
    """Which weights become zero during training, and how they are rounded. Its `repr` says all that it depends on."""

    @property
    def levels(self) -> int:
        """Positive values of the weights at the end, relative to a scale for each output channel; 0 for any."""

    def masks_after(self, step: int, num_steps: int, weights: Sequence[Tensor]) -> list[Tensor] | None:
        """New masks of the shapes of `weights`, 0 or 1, after `step` of `num_steps`; None where they stay."""

    def rounded(self, step: int, num_steps: int, weights: Sequence[Tensor]) -> list[Tensor] | None:
        """What the forward pass of `step` sees instead of `weights`, None for themselves."""


class Run:
    """The tensors of one training, on its device, and one step of it."""

    def __init__(
        self,
        model: GoogLeNet,
        train: Images,
        *,
        recipe: Recipe,
        compute: Compute,
        teacher: GoogLeNet | None = None,
        mask_schedule: MaskSchedule | None = None,
    ) -> None:
        self.recipe, self.mask_schedule = recipe, mask_schedule
        self.device = pick_device(compute.device)
        self.precision = pick_precision(compute.precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        else:
            tune_cuda(deterministic=compute.deterministic)
        self.model = copy.deepcopy(model).to(self.device).to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.teacher = None
        if teacher is not None:
            assert isinstance(recipe, StudentRecipe)
            if len(train.classes) == 2 and recipe.distillation.loss == "standardized_kd":
                raise ValueError(
                    "distillation.loss must be kd or none for 2 classes, got standardized_kd: standardized, two logits "
                    "tell only which is larger; change it under finetune, distill and squeeze"
                )
            self.teacher = copy.deepcopy(teacher).to(self.device).to(memory_format=torch.channels_last)
            self.teacher.eval().requires_grad_(False)
        self.batches = Batches(train, recipe=recipe, fill=self.model.mean)
        self._teacher_logits = self._open_teacher_logits(train) if self.teacher is not None else None
        # The same module, unless several processes share its gradients.
        self._forward: nn.Module = self.model
        if num_processes() > 1:
            synchronize_batch_norm(self.model)
            self._forward = DistributedDataParallel(self.model, forward_sync_buffers=False)
        # The processes of DistributedDataParallel talk to each other during a step.
        replays = compute.cuda_graph and self.device.type == "cuda" and num_processes() == 1
        self._gradients_of = CudaGraph(self.model, self._gradients) if replays else self._gradients

        weights = [weight for weight in self.model.parameters() if weight.dim() > 1]
        # Weights whose zeros stay, as the foreach functions want them: detached, in lists.
        self._sparse = weights if mask_schedule else []
        self.masked = [weight.detach() for weight in self._sparse]
        self.masks = [(weight != 0).to(weight.dtype) for weight in self.masked]
        self._averages_of_masked = [weight.detach() for weight in self.average.parameters() if weight.dim() > 1]
        self.optimizers = self._optimizers(weights)
        self._optimizer_of = {
            weight: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for weight in group["params"]
        }
        self.loss_sum = torch.zeros((), device=self.device)  # of the epoch so far
        # What is averaged and what comes in, statistics of batch normalization included.
        self._averaged, self._current = (
            [tensor.detach() for tensor in net.state_dict().values() if tensor.is_floating_point()]
            for net in (self.average, self.model)
        )

    def _optimizers(self, weights: Sequence[Tensor]) -> list[torch.optim.Optimizer]:
        """SGD, and Muon for the convolutions if the recipe says so."""
        recipe = self.recipe
        others = [weight for weight in self.model.parameters() if weight.dim() <= 1]
        by_muon = [weight for weight in weights if weight.dim() == 4 and recipe.muon_lr is not None]
        by_sgd = [weight for weight in weights if weight.dim() == 2 or recipe.muon_lr is None]
        sgd = torch.optim.SGD(
            [{"params": by_sgd, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
        if recipe.muon_lr is None:
            return [sgd]
        return [sgd, Muon(by_muon, lr=recipe.muon_lr, momentum=recipe.momentum, dtype=self.precision)]

    def _open_teacher_logits(self, train: Images) -> TeacherLogits | None:
        """Where the teacher's logits are kept, if the recipe has views that come again."""
        assert isinstance(self.recipe, StudentRecipe) and self.teacher is not None
        if not self.recipe.teacher_views:
            return None
        settings = self.recipe.model_dump(include={"seed", "batch_size", "augmentation", "teacher_views"})
        share = (rank(), num_processes())
        state = [tensor.cpu().contiguous().numpy().tobytes() for tensor in self.teacher.state_dict().values()]
        name = fingerprint(
            *code_of("network", "training"),
            repr((settings, self.teacher.architecture, self.precision, self.device.type, share)).encode(),
            train.digest(),
            *state,
        )
        return TeacherLogits(
            name,
            views=self.recipe.teacher_views,
            steps_per_epoch=self.batches.steps_per_epoch,
            batch_size=self.batches.batch_size // num_processes(),
            num_classes=len(train.classes),
        )

    def lr(self, step: int) -> float:
        """Learning rate of a step."""
        return schedule.learning_rate(step, recipe=self.recipe, steps_per_epoch=self.batches.steps_per_epoch)

    def train_step(self, step: int) -> None:
        """Make the step."""
        images, targets = self.batches.batch(step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr(step) * (optimizer.defaults["lr"] / self.recipe.lr)
        if num_processes() > 1:  # each augments the whole batch, so that the shares are those of one process
            images, targets = (whole.chunk(num_processes())[rank()] for whole in (images, targets))
        inputs = [images, targets]
        if self._teacher_logits is not None:
            size = images.shape[-1]
            logits = self._teacher_logits.read(step, size)
            if logits is None:
                logits = self._teacher_logits.write(step, size, self._ask_teacher(images))
            inputs.append(logits.to(self.device))
        with self._rounded(step):
            loss = self._gradients_of(*inputs)
        if self.masked:  # or the gradients of weights that stay zero would dominate what Muon makes orthogonal
            torch._foreach_mul_([weight.grad for weight in self._sparse if weight.grad is not None], self.masks)
        for optimizer in self.optimizers:
            optimizer.step()
        self.loss_sum += mean_over_processes(loss)
        with torch.no_grad():
            self._mask(step)
            # The average warms up: early weights are worth little.
            decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._averaged, self._current, 1 - decay)

    @contextmanager
    def _rounded(self, step: int) -> Iterator[None]:
        """Put the weights that the forward pass of `step` sees in the place of those that are trained.

        The gradients are those of the rounded weights: the straight-through estimator of Bengio et al., "Estimating or
        Propagating Gradients Through Stochastic Neurons for Conditional Computation", arXiv 1308.3432.
        """
        rounded = self._rounded_values(step, self.masked)
        if rounded is None:
            yield
            return
        trained = [weight.clone() for weight in self.masked]
        torch._foreach_copy_(self.masked, rounded)
        yield
        torch._foreach_copy_(self.masked, trained)

    def _rounded_values(self, step: int, weights: Sequence[Tensor]) -> list[Tensor] | None:
        if self.mask_schedule is None:
            return None
        return self.mask_schedule.rounded(step, self.batches.num_steps, weights)

    @torch.no_grad()
    def result(self, step: int) -> GoogLeNet:
        """The moving average as it would ship after `step` steps, with its weights rounded if that is due."""
        rounded = self._rounded_values(step, self._averages_of_masked)
        if rounded is None:
            return self.average
        assert self.mask_schedule is not None
        result = copy.deepcopy(self.average)
        weights = [weight.data for weight in result.parameters() if weight.dim() > 1]
        torch._foreach_copy_(weights, rounded)
        result.architecture = replace(result.architecture, weight_levels=self.mask_schedule.levels)
        return result

    def _mask(self, step: int) -> None:
        """Set to zero what the masks say, after they have changed if that is due."""
        if self.mask_schedule is None:
            return
        masks = self.mask_schedule.masks_after(step, self.batches.num_steps, self.masked)
        if masks is not None:
            self.masks = masks
            torch._foreach_mul_(self._averages_of_masked, masks)
            for weight, mask in zip(self._sparse, masks, strict=True):
                if (momentum := self._optimizer_of[weight].state[weight].get("momentum_buffer")) is not None:
                    momentum.mul_(mask)
        torch._foreach_mul_(self.masked, self.masks)

    def _gradients(self, images: Tensor, targets: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
        """Mean loss of a batch; every weight has its gradient then."""
        self.model.zero_grad(set_to_none=True)
        loss = self._batch_loss(images, targets, teacher_logits)
        loss.backward()
        return loss.detach()

    def _batch_loss(self, images: Tensor, targets: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
        """Mean loss of images (B, 3, S, S) with targets (B, num_classes); a teacher is asked unless it was before."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self._forward(images).float()  # (B, num_classes)
        loss = functional.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
        if self.teacher is None:
            return loss
        assert isinstance(self.recipe, StudentRecipe)
        if teacher_logits is None:
            teacher_logits = self._ask_teacher(images)
        return distillation_loss(logits, teacher_logits, loss, recipe=self.recipe.distillation)

    @torch.no_grad()
    def _ask_teacher(self, images: Tensor) -> Tensor:
        """The teacher's logits, float (B, num_classes)."""
        assert self.teacher is not None
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits: Tensor = self.teacher(images).float()
        return logits

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on, on the CPU."""
        groups = {"model": self.model.state_dict(), "average": self.average.state_dict(), "momentum": self._momentum()}
        named = {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
        return {name: tensor.cpu().contiguous() for name, tensor in (named | {"loss_sum": self.loss_sum}).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "momentum": {}}
        for name, tensor in tensors.items():
            group, _, key = name.partition(".")
            groups.get(group, {})[key] = tensor
        self.model.load_state_dict(groups["model"])
        self.average.load_state_dict(groups["average"])
        for name, parameter in self.model.named_parameters():
            if name in groups["momentum"]:  # none before the first step
                buffer = torch.empty_like(parameter).copy_(groups["momentum"][name])
                self._optimizer_of[parameter].state[parameter]["momentum_buffer"] = buffer
        self.loss_sum.copy_(tensors["loss_sum"])
        self.masks = [(weight != 0).to(weight.dtype) for weight in self.masked]

    def _momentum(self) -> dict[str, Tensor]:
        """Momentum by the name of its weight; none before the first step, or with momentum 0."""
        states = {name: self._optimizer_of[weight].state[weight] for name, weight in self.model.named_parameters()}
        buffers = {name: state.get("momentum_buffer") for name, state in states.items()}
        return {name: buffer for name, buffer in buffers.items() if buffer is not None}
