"""Small recordings of a KIT (Yokogawa) system, written byte by byte: what is in them is known to the bit.

The layout is the one that MNE's reader expects. A file begins with a directory of blocks: system, channels, sensitivity, amplifier,
acquisition, samples, and the marker coils. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

N_SENSORS, N_REFERENCES, N_TRIGGERS = 157, 3, 8
NYU_2010 = 34
"""A system of 157 axial gradiometers, whose 2-D layout MNE has."""
SFREQ = 500.0
VOLT = 10 / 2**16
"""Of one step of the converter: 16 bits over 10 V."""
TESLA_PER_VOLT = 1.5e-9
AMPLIFIER = 0x10041000
"""Gains of 2, 2 and 1, no high-pass, a low-pass of 200 Hz, no notch."""
STEP = VOLT / 4 * TESLA_PER_VOLT
"""Tesla of one step of the converter on a sensor."""

BLOCKS = 30
SYSTEM, CHANNELS, SENSITIVITY, FILTER, ACQUISITION, SAMPLES, MARKERS, DIGITISED = 1, 4, 5, 7, 8, 9, 12, 26
GRADIOMETER, REFERENCE, TRIGGER = 2, 0x101, -1
CHANNEL_BYTES = 80
CONTINUOUS = 1


def sensor_places(n: int = N_SENSORS) -> np.ndarray:
    """Return places and directions on a helmet: (n, 5) of x, y, z in metres (front, left, up) and theta, phi in degrees."""
    k = np.arange(n)
    z = 1 - 1.1 * (k + 0.5) / n
    phi = np.mod(k * 137.508, 360)
    theta = np.degrees(np.arccos(z))
    across = 0.12 * np.sin(np.radians(theta))
    x, y = across * np.cos(np.radians(phi)), across * np.sin(np.radians(phi))
    return np.stack([x, y, 0.12 * z, theta, phi], axis=1)


def write_kit(
    path: Path,
    steps: np.ndarray,
    *,
    sfreq: float = SFREQ,
    names: Sequence[str] = (),
    system: int = NYU_2010,
    markers: np.ndarray | None = None,
) -> None:
    """Write a continuous recording.

    Parameters
    ----------
    path : Path
    steps : int array of shape (channels, samples)
        As converted: sensors, then references, then triggers.
    sfreq : float
    names : sequence of str
        Of the sensors, at most six letters each; by default none, and MNE counts them.
    system : int
        Number of the installation.
    markers : array of shape (5, 3), optional
        Places of the marker coils in metres.
    """
    n_channels, n_samples = steps.shape
    assert n_channels == N_SENSORS + N_REFERENCES + N_TRIGGERS
    blocks = {
        SYSTEM: _system(n_channels, system),
        CHANNELS: _channels(names or [""] * N_SENSORS),
        SENSITIVITY: np.array([[0, TESLA_PER_VOLT]] * n_channels, "<f8").tobytes(),  # offset, gain
        FILTER: struct.pack("<i", AMPLIFIER),
        ACQUISITION: struct.pack("<id2i", CONTINUOUS, sfreq, 0, n_samples),
        MARKERS: b"" if markers is None else _markers(markers),
        SAMPLES: np.ascontiguousarray(steps.T, "<i2").tobytes(),  # last, as a file that is cut ends in it
    }
    sizes = {CHANNELS: (CHANNEL_BYTES, n_channels), SAMPLES: (2 * n_channels, n_samples)}
    entries = [(0, 16, BLOCKS, BLOCKS)] + [(0, 0, 0, 0)] * (BLOCKS - 1)
    place = 16 * BLOCKS
    for number, block in blocks.items():
        size, count = sizes.get(number, (len(block), int(bool(block))))
        entries[number] = (place, size, count, count)
        place += len(block)
    directory = b"".join(struct.pack("<I3i", *entry) for entry in entries)
    path.write_bytes(directory + b"".join(blocks.values()))


def _system(n_channels: int, number: int) -> bytes:
    """Return the block that says what recorded: version 2.4, a low-band amplifier (100), a converter of 16 bits over 10 V."""
    head = struct.pack("<3i128s128si256s", 2, 4, number, b"test system", b"test model", n_channels, b"")
    times = struct.pack("<2i12x", 1_600_000_000, 1_600_000_000)
    kinds = b"".join(struct.pack("<i12x", kind) for kind in (0, 100, 0))  # dewar, amplifier, trigger
    return head + times + kinds + struct.pack("<i116xd3i", 0, 10.0, 0, 16, 16)


def _channels(names: Sequence[str]) -> bytes:
    places = sensor_places(N_SENSORS + N_REFERENCES)
    sensors = [
        struct.pack("<i5d16x6s", GRADIOMETER, *place, name.encode())
        for place, name in zip(places, names, strict=False)
    ]
    references = [struct.pack("<i5d", REFERENCE, *place) for place in places[N_SENSORS:]]
    triggers = [struct.pack("<2i4x32s", TRIGGER, k, f"trig{k}".encode()) for k in range(N_TRIGGERS)]
    return b"".join(entry.ljust(CHANNEL_BYTES, b"\0") for entry in (*sensors, *references, *triggers))


def _markers(places: np.ndarray) -> bytes:
    """Return the block of coregistration: two empty transforms, then the coils, of which only the place in the helmet is known."""
    coils = [struct.pack("<4i6d", 0, 0, 0, 1, 0, 0, 0, *place) for place in places]
    return struct.pack("<i256xi", 1, len(coils)) + b"".join(coils) + bytes(256)


def draw_steps(n_samples: int, seed: int = 0) -> np.ndarray:
    """Return noise of some hundred steps on sensors and references, and triggers at rest at 5 V."""
    rng = np.random.default_rng(seed)
    noise = np.round(300 * rng.standard_normal((N_SENSORS + N_REFERENCES, n_samples)))
    rest = np.full((N_TRIGGERS, n_samples), 5 / VOLT - 1)
    return np.concatenate([noise, rest]).astype(np.int64)
