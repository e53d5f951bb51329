"""What a running recording hands over: chunks of samples with their times, and markers; and what every source of them promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError


@dataclass(frozen=True)
class Marker:
    """Something that happened, such as a picture that appeared.

    Attributes
    ----------
    time : float
        Seconds on the clock of the recording.
    label : str
        What it was; a stimulus id where the presentation computer sends one.
    """

    time: float
    label: str


@dataclass(frozen=True, eq=False)
class Chunk:
    """Samples that arrived together.

    Attributes
    ----------
    data : array of shape (channels, samples)
        In the order of `StreamFacts.names`, as the system sends them.
    timestamps : array of shape (samples,)
        Seconds on the clock of the recording.
    arrived : float
        Seconds on this machine's monotonic clock; of a log, when the chunk arrived then.
    first : int or None
        Number of the first sample within the recording; None where the system does not count.
    markers : tuple of Marker
        Those that became known with this chunk; the sample that they belong to may be an earlier one.
    handed : float or None
        When a log that is run again handed the chunk out, on this machine's clock now: what its answers' delay counts from.
    """

    data: np.ndarray
    timestamps: np.ndarray
    arrived: float
    first: int | None = None
    markers: tuple[Marker, ...] = ()
    handed: float | None = None

    def __post_init__(self) -> None:
        check_shape("data", self.data, "channels samples", samples=len(self.timestamps))


@dataclass(frozen=True)
class StreamFacts:
    """What a source says of itself before the first sample.

    Attributes
    ----------
    source : str
        In words, for the log: ``file sub-01_task-main_run-1_meg.fif``, ``lsl CTF``.
    names : tuple of str
        Of the channels.
    sfreq : float
        Samples a second.
    """

    source: str
    names: tuple[str, ...]
    sfreq: float

    def __post_init__(self) -> None:
        if not self.sfreq > 0:
            raise InputError(
                self.source, expected="a stream of regular samples", found=f"{self.sfreq:g} samples a second"
            )


@runtime_checkable
class StreamSource(Protocol):
    """A running recording. `read` is called again and again by one thread."""

    facts: StreamFacts

    @property
    def ended(self) -> bool:
        """Whether nothing will come any more."""
        ...

    @property
    def waits(self) -> bool:
        """Whether the source waits for its reader, so that a slow one loses nothing and need not hurry."""
        ...

    def read(self, timeout: float) -> Chunk | None:
        """Return the next chunk, or None where none came within `timeout` seconds."""
        ...

    def close(self) -> None: ...


def match_channels(
    model: Sequence[str], stream: Sequence[str], where: str, *, masks_missing: bool
) -> tuple[np.ndarray, list[str], list[str]]:
    """Find the sensors of a model among the channels of a stream.

    CTF systems append the number of the machine to every name (``MLC11-2622``); names are compared without it where they do not
    match as they are.

    Parameters
    ----------
    model, stream : sequence of str
        Names of the model's sensors, and of the stream's channels.
    where : str
        The stream, for the message.
    masks_missing : bool
        Whether the model can do without a sensor.

    Returns
    -------
    places : array of int of shape (sensors,)
        Channel of each sensor, -1 where the stream has none.
    missing, unknown : list of str
        Sensors that the stream lacks, and channels that the model does not know, which are ignored.

    Examples
    --------
    >>> match_channels(["MLC11-2622", "MLC12-2622"], ["UPPT001", "MLC11-3305"], "stream", masks_missing=True)
    (array([ 1, -1]), ['MLC12-2622'], ['UPPT001'])
    """
    exact = {name: k for k, name in enumerate(stream)}
    short: dict[str, int | None] = {}
    for k, name in enumerate(stream):
        plain = name.split("-")[0]
        short[plain] = None if plain in short else k  # two channels of one short name are none
    places = np.full(len(model), -1)
    for k, name in enumerate(model):
        at = exact.get(name, short.get(name.split("-")[0]))
        places[k] = -1 if at is None else at
    if len(np.unique(places[places >= 0])) < (places >= 0).sum():
        raise InputError(where, expected="a channel of its own for each sensor", found="one for several")
    missing = [name for name, at in zip(model, places, strict=True) if at < 0]
    unknown = [name for k, name in enumerate(stream) if k not in set(places)]
    if len(missing) == len(model) or (missing and not masks_missing):
        raise InputError(
            where,
            expected=f"the model's {len(model)} sensors ({_some(model)})",
            found=f"{len(stream)} channels without {len(missing)} of them ({_some(missing)})",
            hint="" if masks_missing else "this model cannot do without a sensor",
        )
    return places, missing, unknown


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
