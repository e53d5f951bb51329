"""The networks of MindEye (Scotti et al. 2023): backbone, projector, prior and low-level branch, subjects side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from braindecode_suite.core.errors import InputError
from braindecode_suite.encoders.mindeye_config import MindEyeConfig
from braindecode_suite.learning.diffusion import cosine_signal, sample_ddim
from braindecode_suite.learning.diffusion_prior import PriorNetwork
from braindecode_suite.learning.layers import Backbone, Projector, TokenHead
from braindecode_suite.learning.low_level import LowLevelBranch

SUBJECT_PARTS = (".subject_in.subjects.", ".skip.subjects.")


@dataclass(frozen=True)
class Roles:
    """What is asked of the network, by target.

    Attributes
    ----------
    retrieval : (int, int)
        Tokens and width.
    image : (int, int) or None
        Target of the prior where it has a head of its own.
    has_prior : bool
    init : (int, int) or None
    """

    retrieval: tuple[int, int]
    image: tuple[int, int] | None
    has_prior: bool
    init: tuple[int, int] | None


@dataclass(frozen=True)
class Outputs:
    """What the network makes of a batch, all in scaled target units.

    Attributes
    ----------
    projected : Tensor of shape (batch, tokens, width)
        For retrieval.
    condition : Tensor of shape (batch, tokens, width) or None
        Brain tokens that the prior starts from.
    low_level : Tensor of shape (batch, tokens, width) or None
    """

    projected: Tensor
    condition: Tensor | None
    low_level: Tensor | None


class MindEyeNetwork(nn.Module):
    """Voxels of several subjects to retrieval tokens, prior condition and low-level latents.

    Every tensor is trained: blocks act on the hidden width, and the tests look for a gradient in each.

    Parameters
    ----------
    n_units : sequence of int
        Units of each subject.
    roles : Roles
    config : MindEyeConfig
    """

    def __init__(self, n_units: Sequence[int], roles: Roles, config: MindEyeConfig) -> None:
        super().__init__()
        self.config, self.roles, self.n_units = config, roles, tuple(n_units)
        hidden, (tokens, width) = config.backbone.hidden, roles.retrieval
        self.backbone = Backbone(n_units, config.backbone)
        self.head = TokenHead(n_units, hidden, tokens, width, skip=config.linear_start)
        self.projector = Projector(width, config.projector_hidden, residual=config.linear_start)
        self.image_head: TokenHead | None = None
        self.prior: PriorNetwork | None = None
        self.low_level: LowLevelBranch | None = None
        if roles.has_prior:
            if config.prior is None:
                raise InputError("`prior`", expected="a prior for the role 'image'", found="None")
            if roles.image is not None:
                self.image_head = TokenHead(n_units, hidden, *roles.image, skip=config.linear_start)
            self.prior = PriorNetwork(*(roles.image or roles.retrieval), config.prior)
        if roles.init is not None:
            if config.low_level is None:
                raise InputError(
                    "`low_level`", expected="a low-level branch for the role 'init'", found="None"
                )
            self.low_level = LowLevelBranch(n_units, hidden, *roles.init, config.low_level)

    def forward(self, responses: Sequence[Tensor]) -> Outputs:
        """Map each subject's (rows, units), subjects one after another in the batch.

        Returns
        -------
        Outputs
        """
        hidden = self.backbone(responses)  # (batch, hidden)
        tokens = self.head(hidden, responses)  # (batch, tokens, width)
        condition = None
        if self.prior is not None:
            condition = tokens if self.image_head is None else self.image_head(hidden, responses)
        low_level = None if self.low_level is None else self.low_level(hidden, responses)
        return Outputs(self.projector(tokens), condition, low_level)

    def denoise(
        self,
        noisy: Tensor,
        time: Tensor,
        condition: Tensor,
        drop_brain: Tensor | None = None,
        drop_image: Tensor | None = None,
    ) -> Tensor:
        """Predict clean image tokens of unit variance; `condition` is in scaled target units."""
        assert self.prior is not None
        scale = noisy.shape[-1] ** 0.5
        predicted: Tensor = self.prior(noisy, time, condition * scale, drop_brain, drop_image)
        return predicted

    @torch.no_grad()
    def sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Draw image tokens from the prior, in scaled target units; all chance is in `noise` (batch, tokens, width)."""
        signal = cosine_signal(self.config.timesteps)
        steps = min(self.config.sampling_steps, self.config.timesteps)
        drawn = sample_ddim(lambda x, time: self.denoise(x, time, condition), noise, signal, steps=steps)
        return drawn / noise.shape[-1] ** 0.5

    @torch.no_grad()
    def start_from_linear(self, subject: int, maps: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Start as linear maps of one subject: (coef, intercept) by role, in scaled units and targets."""
        self.head.set_linear(subject, *maps["retrieval"])
        if self.image_head is not None:
            self.image_head.set_linear(subject, *maps["image"])
        if self.low_level is not None and self.low_level.head is not None:
            self.low_level.set_linear(subject, *maps["init"])


def split_state(
    state: Mapping[str, Tensor], n_subjects: int
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Part a network's state into what all subjects share and what belongs to each."""
    shared: dict[str, Tensor] = {}
    own: list[dict[str, Tensor]] = [{} for _ in range(n_subjects)]
    for key, value in state.items():
        part = next((part for part in SUBJECT_PARTS if part in f".{key}"), None)
        if part is None:
            shared[key] = value
            continue
        before, after = f".{key}".split(part)
        number, name = after.split(".", 1)
        own[int(number)][f"{before}{part}*.{name}"[1:]] = value
    return shared, own


def join_state(shared: Mapping[str, Tensor], own: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Undo `split_state`."""
    state = dict(shared)
    for number, tensors in enumerate(own):
        state |= {key.replace(".*.", f".{number}."): value for key, value in tensors.items()}
    return state
