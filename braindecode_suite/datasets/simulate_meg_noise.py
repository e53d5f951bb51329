"""Noise of the simulated MEG: the brain's own activity, coloured and correlated over sensors, and white noise of sensors.

``noise(t) = sum_r pattern_r z_r(t) + sensor white noise``, z_r independent stationary Gaussian series of one spectrum: 1/f above a
knee, and an alpha peak. Patterns are those of many dipoles in the head, so the covariance is known exactly: over sensors and lags it is
``P P' rho(lag) + s^2 I delta(lag)``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.simulate_meg_parameters import HelmetParameters, MEGNoiseParameters

Floats = NDArray[np.float64]
_PAD = 4.0
_CORRELATION_SECONDS = 300.0


def power(frequencies: Floats, parameters: MEGNoiseParameters) -> Floats:
    """Return the power density of the brain's activity: ``(1 + (f / knee)^2)^(-exponent / 2) (1 + alpha bump(f))``."""
    falling = (1 + np.square(frequencies / parameters.knee)) ** (-parameters.exponent / 2)
    centre, width = parameters.alpha_hz
    return np.asarray(
        falling * (1 + parameters.alpha * np.exp(-0.5 * np.square((frequencies - centre) / width)))
    )


def _gain(n: int, sfreq: float, parameters: MEGNoiseParameters) -> Floats:
    """Return the filter that turns white noise of n samples into a series of variance one."""
    density = power(fft.rfftfreq(n, 1 / sfreq), parameters)
    two_sided = 2 * density.sum() - density[0] - (density[-1] if n % 2 == 0 else 0)
    return np.sqrt(density * n / two_sided)


def draw_series(
    rank: int, n: int, sfreq: float, parameters: MEGNoiseParameters, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw independent series of variance one and the spectrum of `power`, of shape (rank, n)."""
    length = fft.next_fast_len(n + round(_PAD * sfreq), real=True)
    white = rng.standard_normal((rank, length), np.float32)
    gain = _gain(length, sfreq, parameters).astype(np.float32)
    return np.asarray(fft.irfft(fft.rfft(white) * gain, length)[:, :n], np.float32)


def autocorrelation(n: int, sfreq: float, parameters: MEGNoiseParameters) -> Floats:
    """Return the correlation of a series with itself at lags of 0 to n - 1 samples."""
    length = fft.next_fast_len(max(round(_CORRELATION_SECONDS * sfreq), 4 * n), real=True)
    return np.asarray(fft.irfft(np.square(_gain(length, sfreq, parameters)), length)[:n])


def draw_noise_dipoles(
    parameters: MEGNoiseParameters, helmet: HelmetParameters, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draw positions (metres, head's frame) and unit moments of the brain's own activity, each of shape (dipoles, 3)."""
    direction = rng.normal(size=(parameters.n_dipoles, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    low, high = (share**3 for share in parameters.depth)
    radius = helmet.sphere_radius * np.cbrt(rng.uniform(low, high, parameters.n_dipoles))
    moments = np.cross(
        direction, rng.normal(size=direction.shape)
    )  # radial dipoles have no field outside a sphere
    moments /= np.linalg.norm(moments, axis=1, keepdims=True)
    return np.array(helmet.sphere_centre) + radius[:, None] * direction, moments


def noise_patterns(
    fields: Floats, parameters: MEGNoiseParameters, eigenvalues: Floats | None = None
) -> Floats:
    """Return orthogonal patterns over sensors whose squares are the eigenvalues of the brain's covariance.

    Parameters
    ----------
    fields : array of shape (sensors, dipoles)
    parameters : MEGNoiseParameters
    eigenvalues : array of shape (n,), optional
        Of a measured covariance, falling, summing to one: they replace the eigenvalues of the strongest n patterns, and the
        others are left out. The total variance stays the parameters'.

    Returns
    -------
    array of shape (sensors, patterns)
        Tesla.
    """
    vectors, singular, _ = np.linalg.svd(fields, full_matrices=False)
    shares = np.square(singular) / np.square(singular).sum()
    if eigenvalues is not None:
        kept = min(len(eigenvalues), len(shares))
        shares = eigenvalues[:kept] / eigenvalues[:kept].sum()
    total = parameters.brain**2 * len(fields)  # mean variance over sensors times their number
    return np.asarray(vectors[:, : len(shares)] * np.sqrt(total * shares))


def sensor_deviation(parameters: MEGNoiseParameters, sfreq: float) -> float:
    """Return the deviation of a sensor's white noise, tesla."""
    return float(parameters.sensor * np.sqrt(sfreq / 2))


def read_eigenvalues(path: Path) -> Floats:
    """Take the eigenvalues of a measured noise covariance.

    What is taken: of the channels not marked bad the magnetometers of a Vectorview system (``MEG`` and a last digit 1), else all whose
    name begins with M, else all; the eigenvalues of their block, falling, those above a ten-billionth of the largest, summing to one.
    Nothing else: directions stay those of dipoles under our helmet, scale and spectrum the parameters'.

    Parameters
    ----------
    path : Path

    Returns
    -------
    array of shape (n,)
    """
    import mne

    check_file(path, "a FIF noise covariance")
    try:
        covariance = mne.read_cov(path, verbose="error")
    except (ValueError, OSError, RuntimeError, KeyError, EOFError) as error:
        raise InputError(
            path,
            expected="a FIF noise covariance",
            found=" ".join(str(error).split()) or type(error).__name__,
        ) from error
    usable = [name for name in covariance.ch_names if name not in covariance["bads"]]
    chosen = (
        [name for name in usable if name.startswith("MEG") and name.endswith("1")]
        or [name for name in usable if name.startswith("M")]
        or usable
    )
    index = [covariance.ch_names.index(name) for name in chosen]
    data = np.diag(covariance.data) if covariance.data.ndim == 1 else covariance.data
    if not chosen or not np.isfinite(data).all():
        raise InputError(
            path, expected="a finite covariance of sensors", found=f"{len(chosen)} usable channels"
        )
    values = np.linalg.eigvalsh(data[np.ix_(index, index)])[::-1]
    if not values[0] > 0:
        raise InputError(path, expected="variance above zero", found=f"largest eigenvalue {values[0]:g}")
    values = values[values > 1e-10 * values[0]]
    return np.asarray(values / values.sum())
