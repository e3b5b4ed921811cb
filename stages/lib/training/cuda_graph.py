"""A step's kernels, recorded once and launched together: one by one, launching takes longer than running them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

WARM_UP = 3  # calls before the recording, in which cuDNN tries out its algorithms


class CudaGraph:
    """`gradients(images, ...)` of `model` as one CUDA graph, recorded at the first batch of each size."""

    def __init__(self, model: nn.Module, gradients: Callable[..., Tensor]) -> None:
        self._model, self._gradients = model, gradients
        self._inputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The loss of a batch; every weight has its gradient then."""
        if not self._inputs or inputs[0].shape != self._inputs[0].shape:
            self._inputs = tuple(tensor.clone() for tensor in inputs)
            self._record()
        for recorded, given in zip(self._inputs, inputs, strict=True):
            recorded.copy_(given)
        self._graph.replay()
        return self._loss

    def _record(self) -> None:
        """Leaves no trace in what training depends on."""
        statistics = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        random_state = torch.cuda.get_rng_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._gradients(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = self._gradients(*self._inputs)
        self._model.load_state_dict(statistics, strict=False)
        torch.cuda.set_rng_state(random_state)
