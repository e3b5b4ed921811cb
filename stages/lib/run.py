"""One training in progress: its tensors, and the step that changes them.

All randomness of a step comes from (seed, epoch, position in the epoch), so the tensors are all the state there is.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from stages.lib import augmentation, schedule
from stages.lib.data import Images
from stages.lib.devices import keep_freed_memory, pick_device, pick_precision, tune_cuda
from stages.lib.distillation import distillation_loss
from stages.lib.distributed import mean_over_processes, num_processes, rank, synchronize_batch_norm
from stages.lib.googlenet import GoogLeNet
from stages.lib.muon import Muon
from stages.lib.params import Recipe, StudentRecipe
from stages.lib.sparsity import RisingSparsity, magnitude_masks

WARM_UP = 3  # steps before a CUDA graph is recorded, in which cuDNN tries out its algorithms


class Run:
    """The tensors of one training, on its device, and one step of it."""

    def __init__(
        self,
        model: GoogLeNet,
        train: Images,
        *,
        recipe: Recipe,
        keep_zeros: bool = False,
        rising: RisingSparsity | None = None,
        scale_penalty: float = 0.0,
        teacher: GoogLeNet | None = None,
    ) -> None:
        self.recipe, self.rising, self.scale_penalty = recipe, rising, scale_penalty
        self.device = pick_device(recipe.device)
        self.precision = pick_precision(recipe.precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        else:
            tune_cuda(deterministic=recipe.deterministic)
        self.batch_size = min(recipe.batch_size, len(train))
        if self.batch_size % num_processes():
            raise ValueError(
                f"batch_size must be a multiple of the {num_processes()} processes that share a batch, "
                f"got {self.batch_size}; change it or their number"
            )
        self.steps_per_epoch = len(train) // self.batch_size
        self.num_steps = max(1, round(recipe.epochs * self.steps_per_epoch))

        self.model = copy.deepcopy(model).to(self.device).to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.teacher = None
        if teacher is not None:
            assert isinstance(recipe, StudentRecipe)
            if len(train.classes) == 2 and recipe.distillation.loss == "standardized_kd":
                raise ValueError(
                    "distillation.loss must be kd or none for 2 classes, got standardized_kd: standardized, two logits "
                    "tell only which is larger; change it under finetune and distill"
                )
            self.teacher = copy.deepcopy(teacher).to(self.device).to(memory_format=torch.channels_last)
            self.teacher.eval().requires_grad_(False)
        # The same module, unless several processes share its gradients.
        self._forward: nn.Module = self.model
        if num_processes() > 1:
            synchronize_batch_norm(self.model)
            self._forward = DistributedDataParallel(self.model, forward_sync_buffers=False)
        # The processes of DistributedDataParallel talk to each other during a step.
        self._replays = recipe.cuda_graph and self.device.type == "cuda" and num_processes() == 1
        self._graph: torch.cuda.CUDAGraph | None = None
        weights = [weight for weight in self.model.parameters() if weight.dim() > 1]
        others = [weight for weight in self.model.parameters() if weight.dim() <= 1]
        # Masks of the weights that stay zero; lists of detached views, as the foreach functions want them.
        self._sparse = weights if keep_zeros or rising else []
        self.masked = [weight.detach() for weight in self._sparse]
        self.masks = [(weight != 0).to(weight.dtype) for weight in self.masked]
        self._averages_of_masked = [weight.detach() for weight in self.average.parameters() if weight.dim() > 1]
        self._scales = [m.weight for m in self.model.modules() if isinstance(m, nn.BatchNorm2d) and scale_penalty]
        by_muon = [weight for weight in weights if weight.dim() == 4 and recipe.muon_lr is not None]
        by_sgd = [weight for weight in weights if weight.dim() == 2 or recipe.muon_lr is None]
        sgd = torch.optim.SGD(
            [{"params": by_sgd, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
        self.optimizers: list[torch.optim.Optimizer] = [sgd]
        if recipe.muon_lr is not None:
            self.optimizers.append(Muon(by_muon, lr=recipe.muon_lr, momentum=recipe.momentum, dtype=self.precision))
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

        self._pixels = train.pixels
        self._labels = torch.from_numpy(train.labels).to(self.device)
        self._num_classes = len(train.classes)
        self._images, self._size = torch.empty(0), 0
        self._order, self._epoch = torch.empty(0), -1

    def lr(self, step: int) -> float:
        """Learning rate of a step."""
        return schedule.learning_rate(step, recipe=self.recipe, steps_per_epoch=self.steps_per_epoch)

    def size(self, step: int) -> int:
        """Side of the images of a step, in pixels."""
        return schedule.image_size(step, recipe=self.recipe, steps_per_epoch=self.steps_per_epoch)

    def train_step(self, step: int) -> None:
        """Make the step; nothing in it waits for the device."""
        images, targets = self._batch(step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr(step) * (optimizer.defaults["lr"] / self.recipe.lr)
        if num_processes() > 1:  # each augments the whole batch, so that the shares are those of one process
            images, targets = (whole.chunk(num_processes())[rank()] for whole in (images, targets))
        loss = self._replay(images, targets) if self._replays else self._gradients(images, targets)
        for scale in self._scales:  # the gradient of its L1 norm
            assert scale.grad is not None
            scale.grad += self.scale_penalty * scale.detach().sign()
        if self.masked:  # or the gradients of weights that stay zero would dominate what Muon makes orthogonal
            torch._foreach_mul_([weight.grad for weight in self._sparse], self.masks)
        for optimizer in self.optimizers:
            optimizer.step()
        self.loss_sum += mean_over_processes(loss)
        with torch.no_grad():
            if self.rising and (sparsity := self.rising.due(step, self.num_steps)) is not None:
                self.masks = magnitude_masks(self.masked, sparsity=sparsity, scope=self.rising.scope)
                torch._foreach_mul_(self._averages_of_masked, self.masks)
                for weight, mask in zip(self._sparse, self.masks, strict=True):
                    if (momentum := self._optimizer_of[weight].state[weight].get("momentum_buffer")) is not None:
                        momentum.mul_(mask)
            if self.masked:
                torch._foreach_mul_(self.masked, self.masks)
            # The average warms up: early weights are worth little.
            decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._averaged, self._current, 1 - decay)

    def _gradients(self, images: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch; every weight has its gradient then."""
        self.model.zero_grad(set_to_none=True)
        loss = self._batch_loss(images, targets)
        loss.backward()
        return loss.detach()

    def _replay(self, images: Tensor, targets: Tensor) -> Tensor:
        """As `_gradients`, with kernels recorded at the first batch of a size and launched together ever since."""
        if self._graph is None or images.shape != self._inputs[0].shape:
            self._graph = self._record(images, targets)
        self._inputs[0].copy_(images)
        self._inputs[1].copy_(targets)
        self._graph.replay()
        return self._graph_loss

    def _record(self, images: Tensor, targets: Tensor) -> torch.cuda.CUDAGraph:
        """A CUDA graph of `_gradients` on `self._inputs`; recording it leaves no trace in what training depends on."""
        self._inputs = images.clone(), targets.clone()
        statistics = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        random_state = torch.cuda.get_rng_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._gradients(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._graph_loss = self._gradients(*self._inputs)
        self.model.load_state_dict(statistics, strict=False)
        torch.cuda.set_rng_state(random_state)
        return graph

    def _batch_loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of images (B, 3, S, S) with targets (B, num_classes)."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self._forward(images).float()  # (B, num_classes)
            with torch.no_grad():
                teacher_logits = None if self.teacher is None else self.teacher(images).float()
        loss = functional.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
        if teacher_logits is None:
            return loss
        assert isinstance(self.recipe, StudentRecipe)
        return distillation_loss(logits, teacher_logits, loss, recipe=self.recipe.distillation)

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images and targets of a step, the same whenever it is taken."""
        epoch, position = divmod(step, self.steps_per_epoch)
        mixed = (self.recipe.epochs - self.recipe.augmentation.mix_off_epochs) * self.steps_per_epoch
        if epoch != self._epoch:
            order = np.random.default_rng((self.recipe.seed, epoch)).permutation(len(self._labels))
            self._order, self._epoch = torch.from_numpy(order).to(self.device), epoch
        size = self.size(step)
        padding = round(self.recipe.augmentation.crop_padding * size / 32)
        if size != self._size:
            self._images = augmentation.resident(self._pixels, size=size, padding=padding, device=self.device)
            self._size = size
        # Dropout draws from the same generator, so this covers the whole step.
        torch.manual_seed(np.random.SeedSequence((self.recipe.seed, epoch, position)).generate_state(1)[0].item())
        return augmentation.augment(
            self._images,
            self._labels,
            self._order[position * self.batch_size : (position + 1) * self.batch_size],
            size=size,
            num_classes=self._num_classes,
            recipe=self.recipe.augmentation,
            mix=step < mixed,
            fill=self.model.mean,
        )

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
