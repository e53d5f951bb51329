"""fMRI to ranked and reconstructed images: MindEye, or whatever encoder the config names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from braindecode_suite.workflows.decoding import Decoding
from braindecode_suite.workflows.job import ENDING, Job
from braindecode_suite.workflows.mindeye_config import MindEyeWorkflowConfig
from braindecode_suite.workflows.results import SubjectResults
from braindecode_suite.workflows.steps import Steps


class MindEyeWorkflow:
    """Fit an encoder and a linear baseline, retrieve, reconstruct, and score beside every control.

    Parameters
    ----------
    config : MindEyeWorkflowConfig
    job : Job
    """

    name: ClassVar[str] = "mindeye"
    label: ClassVar[str] = "mindeye"
    config_class: ClassVar[type[MindEyeWorkflowConfig]] = MindEyeWorkflowConfig

    def __init__(self, config: MindEyeWorkflowConfig, job: Job) -> None:
        self.decoding = Decoding(config, job, self.name)

    def plan(self) -> Sequence[str]:
        """Return the names of the steps."""
        return [*self.decoding.plan(), *ENDING]

    def run(self, steps: Steps) -> SubjectResults:
        """Do everything for one subject."""
        return self.decoding.finish(self.decoding.decode(steps))
