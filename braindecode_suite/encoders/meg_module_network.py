"""The network of the MEG module (Benchetrit, Banville & King 2024, arXiv:2310.19812, Table S1; Défossez et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from braindecode_suite.core.errors import InputError
from braindecode_suite.encoders.meg_module_config import MegModuleConfig
from braindecode_suite.learning.contrast import LogitScale
from braindecode_suite.learning.sensor_attention import SensorAttention, SensorRouting, split_missing

PERIOD = 5  # convolutions after which dilations begin again
ATTENTION_HIDDEN = 256


class SubjectLayer(nn.Module):
    """One matrix between channels for each person, without bias; the mean of all for somebody else.

    Parameters
    ----------
    n_subjects, channels : int

    Examples
    --------
    >>> layer = SubjectLayer(2, 4)
    >>> layer(torch.zeros(3, 4, 5), torch.tensor([0, 1, -1])).shape
    torch.Size([3, 4, 5])
    """

    def __init__(self, n_subjects: int, channels: int) -> None:
        super().__init__()
        self.matrices = nn.Parameter(torch.randn(n_subjects, channels, channels) * channels**-0.5)

    def forward(self, x: Tensor, subject: Tensor) -> Tensor:
        """Map (batch, channels, times) by the matrix of each row's person; -1 is a person that is not known."""
        known = subject.unique()
        if len(known) == 1:
            return nn.functional.conv1d(x, self.matrix(int(known)).T[:, :, None])
        matrices: Tensor = self.matrices
        if int(known[0]) < 0:
            matrices = torch.cat([matrices, matrices.mean(dim=0, keepdim=True)])  # -1: the last
        return torch.einsum("bct,bcd->bdt", x, matrices[subject].to(x.dtype))

    def matrix(self, subject: int) -> Tensor:
        """Return one person's matrix (channels in, channels out), or the mean of all for -1."""
        return self.matrices[subject] if subject >= 0 else self.matrices.mean(dim=0)


class ConvolutionBlock(nn.Module):
    """Two residual dilated convolutions, then one whose output gates itself; none sees more than it should of the edges.

    Each of the two is convolution, batch norm, GELU, and its input is added where it has the same width; the third has twice
    the width and ends in a gated linear unit. Kernels of 3, so many zeros at each end as keep the length.

    Parameters
    ----------
    width_in, width : int
    first : int
        Number, in the whole network, of the first of its dilated convolutions: their dilations are 1, 2, 4, 8, 16, 1...
    dropout : float
    """

    def __init__(self, width_in: int, width: int, first: int, dropout: float) -> None:
        super().__init__()
        dilations = [2 ** ((first + k) % PERIOD) for k in range(2)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(n, width, 3, padding=dilation, dilation=dilation)
            for n, dilation in zip((width_in, width), dilations, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.gated = nn.Conv1d(width, 2 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width_in, times) to (batch, width, times)."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            y = self.dropout(nn.functional.gelu(norm(convolution(x))))
            x = x + y if x.shape == y.shape else y
        return nn.functional.glu(self.gated(x), dim=1)


class TimePooling(nn.Module):
    """Features of every sample, ``widen(x)``, to one value each.

    ``affine`` is one linear layer over time, the same for all features; ``mean`` takes all samples alike; ``attention`` (Bahdanau
    et al. 2015) weights a sample by ``softmax(v tanh(W features))``. The first two change places with the linear `widen`, which
    then acts on one vector a trial instead of all samples: the same function, a third of the network's products less.

    A window that ends early has fewer samples. Its affine weights are those of the samples it has, scaled up to the same total
    size; the layer norm of the heads cancels their common factor in any case, as it does the affine layer's bias, which is
    kept because the published count has it.

    Parameters
    ----------
    width, features, n_times : int
    kind : {'affine', 'mean', 'attention'}
    """

    def __init__(self, width: int, features: int, n_times: int, kind: str) -> None:
        super().__init__()
        self.n_times = n_times
        self.widen = nn.Conv1d(width, features, 1)
        self.affine = nn.Linear(n_times, 1) if kind == "affine" else None
        self.attention = None
        if kind == "attention":  # a bias of the last layer would be cancelled by the softmax
            self.attention = nn.Sequential(
                nn.Linear(features, ATTENTION_HIDDEN), nn.Tanh(), nn.Linear(ATTENTION_HIDDEN, 1, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, times) to (batch, features)."""
        if self.attention is not None:
            wide = self.widen(x).transpose(1, 2)  # (batch, times, features)
            weights = self.attention(wide).float().softmax(dim=1).to(wide)
            return (weights * wide).sum(dim=1)
        weights = self.weights(x.shape[2]).to(x)
        gathered = x @ weights  # (batch, width)
        bias = None if self.widen.bias is None else self.widen.bias * weights.sum()
        features = nn.functional.linear(gathered, self.widen.weight[:, :, 0], bias)
        return features if self.affine is None else features + self.affine.bias

    def weights(self, n_times: int) -> Tensor:
        """Return the weights of a window's samples, of shape (n_times,)."""
        if self.affine is None:
            return torch.full((n_times,), 1 / n_times, device=self.widen.weight.device)
        weights = self.affine.weight[0]
        if n_times == self.n_times:
            return weights
        seen = weights[:n_times]
        return seen * (weights.abs().sum() / seen.abs().sum().clamp_min(1e-12))


class LatentHead(nn.Sequential):
    """Layer norm without weights of its own, GELU, a linear layer."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__(
            nn.LayerNorm(features, elementwise_affine=False), nn.GELU(), nn.Linear(features, width)
        )


class MegModuleNetwork(nn.Module):
    """Sensors of several people, in any layout, to one vector of features and from there to each role's latents.

    ========================================================  =======================  ==========
    layer (the paper's sizes, four people, one head of 768)   in -> out                parameters
    ========================================================  =======================  ==========
    `sensors`: attention of 270 channels to places            (272, 181)->(270, 181)      552,960
    `mix`: convolution of length 1                            270->270                     73,170
    `subjects`: a matrix a person                             270->270                    291,600
    `blocks[0]`: dilations 1, 2                               270->320                  1,183,360
    `blocks[1]`: dilations 4, 8                               320->320                  1,231,360
    `expand`, GELU, `pool.widen`                              320->640->2048            1,518,208
    `pool.affine`: over time                                  (2048, 181)->2048               182
    head: layer norm, GELU, linear                            2048->768                 1,573,632
    ========================================================  =======================  ==========

    Parameters
    ----------
    n_subjects, n_times : int
    widths : mapping of role to int
        Width of each head.
    config : MegModuleConfig

    Examples
    --------
    >>> config = MegModuleConfig(channels=4, n_frequencies=2, hidden=4, features=8)
    >>> network = MegModuleNetwork(1, 9, {"retrieval": 3}, config).eval()
    >>> subject = layout = torch.zeros(2, dtype=torch.long)
    >>> network(torch.zeros(2, 5, 9), torch.rand(1, 5, 2), layout, subject)["retrieval"].shape
    torch.Size([2, 3])
    """

    SUBJECT_TENSOR = "subjects.matrices"

    def __init__(
        self, n_subjects: int, n_times: int, widths: Mapping[str, int], config: MegModuleConfig
    ) -> None:
        super().__init__()
        self.n_times, channels, hidden = n_times, config.channels, config.hidden
        code = {"n_frequencies": config.n_frequencies, "dropout": config.sensor_dropout}
        self.sensors: SensorAttention | SensorRouting
        if config.sensors == "attention":
            self.sensors = SensorAttention(channels, **code)  # type: ignore[arg-type]
        else:
            self.sensors = SensorRouting(channels, n_times, config.routing, **code)  # type: ignore[arg-type]
        self.mix = nn.Conv1d(channels, channels, 1)
        self.subjects = SubjectLayer(n_subjects, channels) if config.subject_layer else None
        self.blocks = nn.Sequential(
            *(
                ConvolutionBlock(hidden if k else channels, hidden, 2 * k, config.dropout)
                for k in range(config.n_blocks)
            )
        )
        self.expand = nn.Conv1d(hidden, 2 * hidden, 1)
        self.pool = TimePooling(2 * hidden, config.features, n_times, config.pooling)
        self.heads = nn.ModuleDict(
            {role: LatentHead(config.features, width) for role, width in widths.items()}
        )
        learned = config.contrast != "one-sided" and "retrieval" in widths
        self.logit = LogitScale(config.contrast) if learned else None

    def forward(self, x: Tensor, positions: Tensor, layout: Tensor, subject: Tensor) -> dict[str, Tensor]:
        """Map trials to latents.

        Parameters
        ----------
        x : Tensor of shape (batch, sensors, times)
            NaN in sensors that are missing in a trial. Fewer times than the network has are the first of them.
        positions : Tensor of shape (layouts, sensors, 2)
            NaN where a layout has no such sensor.
        layout, subject : Tensor of int of shape (batch,)
            Of each trial; subject -1 is a person that is not known.

        Returns
        -------
        dict of role to Tensor of shape (batch, width)
        """
        if x.shape[2] > self.n_times:
            raise InputError("`x`", expected=f"at most {self.n_times} times", found=str(x.shape[2]))
        features = self.features(x, positions, layout, subject)
        return {role: head(features) for role, head in self.heads.items()}

    def features(self, x: Tensor, positions: Tensor, layout: Tensor, subject: Tensor) -> Tensor:
        """Map trials to features of shape (batch, features)."""
        x, seen = split_missing(x)
        x = self.mix(self.sensors(x, positions, layout, seen))  # (batch, channels, times)
        if self.subjects is not None:
            x = self.subjects(x, subject)
        x = nn.functional.gelu(self.expand(self.blocks(x)))  # (batch, 2 hidden, times)
        return self.pool(x)  # (batch, features)
