"""The MEG module (Benchetrit, Banville & King 2024, arXiv:2310.19812) as a `BrainEncoder`, built from the paper's facts.

Known faults of other implementations are not repeated: the code of places has its margin and width, blocks have their gated
convolution, a missing sensor has no weight (it is not filled with zeros), an image that two people saw in one batch is no negative of
itself, and nothing is chosen on test rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from braindecode_suite.encoders.meg_module_config import PRESETS, MegModuleConfig, preset
from braindecode_suite.encoders.meg_module_network import MegModuleNetwork
from braindecode_suite.encoders.sensor_encoder import SensorEncoder


class MegModule(SensorEncoder[MegModuleConfig]):
    """Sensors of several people to latents: attention over places, a matrix a person, dilated convolutions, a head a role.

    The paper trains one model for each latent space; here all roles share the trunk, each with a head. See `SensorEncoder` for
    what is learned and how, `MegModuleNetwork` for the layers.

    Parameters
    ----------
    config : MegModuleConfig
    context : FitContext
    """

    name: ClassVar[str] = "meg-module"
    config_class: ClassVar[type[MegModuleConfig]] = MegModuleConfig
    PRESETS: ClassVar[tuple[str, ...]] = tuple(PRESETS)

    @classmethod
    def preset(cls, name: str) -> MegModuleConfig:
        """Return the config of a preset: tiny or paper."""
        return preset(name)

    def build_network(self, n_subjects: int, shape: tuple[int, int], widths: Mapping[str, int]) -> nn.Module:
        """Build the network, see `MegModuleNetwork`; the number of sensors does not matter."""
        return MegModuleNetwork(n_subjects, shape[1], widths, self.config)
