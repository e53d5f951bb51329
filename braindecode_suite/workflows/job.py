"""`Job`: one subject to work on. `Workflow`: what the runner asks of every workflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

from pydantic import Field, field_validator

from braindecode_suite.core.config import Config
from braindecode_suite.core.protocols import Dataset
from braindecode_suite.core.score import Score
from braindecode_suite.workflows.results import SubjectResults
from braindecode_suite.workflows.steps import Steps

ENDING = ("save results and models", "report")
"""The last steps of every workflow."""

Resamples = Annotated[int, Field(ge=100)]
Permutations = Annotated[int, Field(ge=1000)]
Minutes = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(lt=1, allow_inf_nan=False)]


class WorkflowConfig(Config):
    """What every workflow's config holds.

    Attributes
    ----------
    preset : str
        Name of the preset that the other values started from.
    protocol : str
        Split protocol; empty means the dataset's first.
    dataset_options : dict
        Passed to the dataset when it is opened (which betas, which ROIs, ...).
    simulation : dict
        Passed to a simulated dataset when it writes itself (size, noise, ...).
    """

    preset: str = ""
    protocol: str = ""
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    simulation: dict[str, Any] = Field(default_factory=dict)


class MinutesConfig(WorkflowConfig):
    """What the config of a workflow holds that scores the first minutes of a recording too.

    Attributes
    ----------
    minutes : tuple of float
        Amounts of recording at which the headline is scored too, trained on the first minutes only (`core.minutes`).
    """

    minutes: tuple[Minutes, ...] = ()

    @field_validator("minutes", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) else value

    @field_validator("minutes")
    @classmethod
    def _distinct(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each amount once")
        return tuple(sorted(value))


@dataclass(frozen=True, kw_only=True)
class Job:
    """One subject of one dataset, where to read, where to write and where to compute.

    Attributes
    ----------
    dataset : Dataset
    data_dir, output_dir, work_dir : Path
        `work_dir` is the run's scratch folder, shared by subjects; caches of targets and studies go there.
    subject : str
        Label without ``sub-``.
    device, precision : str
    seed : int
        The first seed; further ones count up from it.
    progress : bool
    command : tuple of str
        As typed, for the report.
    """

    dataset: Dataset
    data_dir: Path
    output_dir: Path
    work_dir: Path
    subject: str
    device: str = "cpu"
    precision: str = "32"
    seed: int = 0
    progress: bool = False
    command: tuple[str, ...] = field(default_factory=tuple)


class Workflow(Protocol):
    """Built as ``Class(config, job)``. `run` computes everything and writes nothing outside the work folder.

    The runner stages what `run` returns, puts it into place when it is complete, and renders the report.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    config_class: ClassVar[type[WorkflowConfig]]

    def __init__(self, config: Any, job: Job) -> None: ...

    def plan(self) -> Sequence[str]:
        """Return the names of the steps, in order, for ``--dry-run``; computes nothing."""
        ...

    def run(self, steps: Steps) -> SubjectResults:
        """Do the work of one subject, resuming finished steps from the work folder."""
        ...


@runtime_checkable
class GroupScored(Protocol):
    """A workflow that knows more of its subjects together than the mean of their scores."""

    @classmethod
    def group_scores(
        cls, output_dir: Path, subjects: Sequence[str], seed: int
    ) -> tuple[list[Score], dict[str, Any]]:
        """Return further rows of subject ``group``, and facts for the group's report, from the results folder alone."""
        ...
