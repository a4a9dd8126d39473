"""One step of training, in PyTorch: loss, gradient, change of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from continuer.client import preprocess
from continuer.errors import ContinuerError
from models.images import Images
from models.network import PREPROCESSING, Network
from models.ops_torch import RUNNING, TorchOps, image_batch
from models.train_files import Arrays
from models.train_schedule import Step

MOMENTUM = 0.9
#: Pulls kernels, and nothing else, towards 0.
WEIGHT_DECAY = 5e-4
#: Outputs are softened by this before one learns from another.
TEMPERATURE = 2.0
#: What the exits' loss counts beside the final output's.
EXIT_WEIGHT = 0.5
#: Largest norm of the gradient while statistics are frozen.
CLIP = 2.0


class Learner:
    """A network's weights on a device, with the optimiser's memory.

    ``half``: whether products are computed in bfloat16.
    """

    def __init__(
        self, network: Network, weights: Arrays, momenta: Arrays, device: str, *, half: bool
    ) -> None:
        self.network = network
        self.device = device
        self.half = half
        # Copies: PyTorch would write into the caller's arrays.
        self.weights = {k: torch.tensor(v, device=device) for k, v in weights.items()}
        self.ops = TorchOps(self.weights)
        self._trained = {k: v.requires_grad_() for k, v in self.weights.items() if _trained(k)}
        kernels = [v for k, v in self._trained.items() if k.endswith("/kernel")]
        others = [v for k, v in self._trained.items() if not k.endswith("/kernel")]
        self._optimiser = torch.optim.SGD(
            [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others}],
            lr=0.0,
            momentum=MOMENTUM,
            nesterov=True,
        )
        for name, array in momenta.items():
            buffer = torch.tensor(array, device=device)
            self._optimiser.state[self._trained[name]]["momentum_buffer"] = buffer

    def learn(
        self, images: Tensor, labels: Tensor, step: Step, rate: float, *, frozen: bool
    ) -> tuple[float, float]:
        """Take a step on prepared images; returns its loss and the share of right answers.

        With frozen statistics, the full network's output teaches that of a skipped one.
        """
        self.ops.statistics = "frozen" if frozen else "skipping" if step.skipped else "batch"
        with self._products():
            final, exits = self.network.run(self.ops, images, step.skipped, step.exits)
            loss = functional.cross_entropy(final.float(), labels)
            if exits:
                loss = loss + EXIT_WEIGHT * _exit_loss(final, list(exits.values()), labels)
            if frozen and step.skipped:
                with torch.no_grad():
                    full, _ = self.network.run(self.ops, images)
                loss = loss + _distance(final, full)
        value = loss.item()
        if not math.isfinite(value):
            raise ContinuerError(f"loss = {value}: training diverged; lower --learning-rate")
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if frozen:
            torch.nn.utils.clip_grad_norm_(list(self._trained.values()), CLIP)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        return value, (final.argmax(1) == labels).float().mean().item()

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set the running statistics to their mean over the batches, nothing skipped.

        Those of a bypass come from the input of the block that it stands in for.
        """
        with torch.no_grad():
            for index, images in enumerate(batches):
                self.ops.momentum = 1 / (index + 1)
                self._pass_all(images)
        self.ops.momentum = RUNNING

    def _pass_all(self, flow: Tensor) -> None:
        """Run every part once, those that branch off on the flow with nothing skipped."""
        for block in self.network.blocks:
            if block.bypass is not None:
                self.ops.statistics = "skipping"
                self.network.parts[block.bypass](self.ops, flow)
            self.ops.statistics = "batch"
            flow = self.network.parts[block.part](self.ops, flow)
            if block.exit is not None:
                self.network.parts[block.exit](self.ops, flow)

    def arrays(self) -> tuple[Arrays, Arrays]:
        """Copies of the weights, and of the optimiser's momenta by the weights' names."""
        weights = {name: _array(tensor) for name, tensor in self.weights.items()}
        momenta = {
            name: _array(self._optimiser.state[tensor]["momentum_buffer"])
            for name, tensor in self._trained.items()
            if tensor in self._optimiser.state
        }
        return weights, momenta

    def _products(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.half)


def prepare(pixels: Images, device: str) -> Tensor:
    """Images as the operations take them on the device."""
    return image_batch(torch.from_numpy(preprocess(pixels, PREPROCESSING)).to(device))


def _trained(name: str) -> bool:
    return not name.endswith(("/moving_mean", "/moving_variance"))


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.detach().cpu().numpy().copy()
    return array


def _exit_loss(final: Tensor, exits: list[Tensor], labels: Tensor) -> Tensor:
    """Mean over the exits of their own loss and of their distance from the final output."""
    together = torch.cat(exits)
    own = functional.cross_entropy(together.float(), labels.repeat(len(exits)))
    return own + _distance(together, final.detach().repeat(len(exits), 1))


def _distance(pupil: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of softened outputs, scaled back to the size of a loss on hard ones."""
    softened = functional.log_softmax(pupil.float() / TEMPERATURE, 1)
    target = functional.log_softmax(teacher.float() / TEMPERATURE, 1)
    divergence = functional.kl_div(softened, target, reduction="batchmean", log_target=True)
    return divergence * TEMPERATURE**2
