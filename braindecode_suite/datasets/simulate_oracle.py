"""The oracle of a simulated subject: it knows the generating model, so that its scores are the ceilings.

A trial's betas are ``mean + trial_sd (offset_s + gain_s (signal(image) + noise))``. Undoing the affine part of a session,
which is what z-scoring within session estimates, leaves ``y = signal(image) + noise`` with known covariance
``C = diag(d) + L' L``. With n repeats averaged, the log-likelihood of image j is, up to what all images share,
``n (y' C^-1 mu_j - mu_j' C^-1 mu_j / 2)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_file, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.study import Study
from braindecode_suite.metrics.retrieval import ranks, top_k_random_gallery

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Oracle:
    """Knows one simulated subject.

    Attributes
    ----------
    signal : dict of str to int
        Row of `signals` of each image that the subject could see.
    signals : array of shape (images, voxels)
        Noiseless responses, in standard deviations of a trial.
    distractors : dict of str to int
        Row of `distractor_signals` of each shared image.
    distractor_signals : array of shape (shared images, n, voxels)
    noise_sd : array of shape (voxels,)
    loadings : array of shape (rank, voxels)
        Noise shared between voxels; part of `noise_sd`.
    gain, offset : array of shape (sessions, voxels)
    mean, trial_sd : array of shape (voxels,)
    used : array of bool of shape (voxels,)
        Voxels that vary.
    """

    signal: dict[str, int]
    signals: Floats
    distractors: dict[str, int]
    distractor_signals: NDArray[np.float16]
    noise_sd: Floats
    loadings: Floats
    gain: Floats
    offset: Floats
    mean: Floats
    trial_sd: Floats
    used: NDArray[np.bool_]

    @classmethod
    def open(cls, data_dir: Path, subject: str) -> Oracle:
        """Read what the simulator left of one subject's truth."""
        path = check_file(
            data_dir / "simulation" / f"subj{int(subject):02d}_truth.hdf5", "the simulated truth"
        )
        with h5py.File(path, "r") as file:
            arrays = {name: np.asarray(file[name]) for name in ("gain", "offset", "mean", "trial_sd")}
            return cls(
                signal={str(number): row for row, number in enumerate(file["stimulus_id"][:])},
                signals=np.asarray(file["signal"], np.float32),
                distractors={str(number): row for row, number in enumerate(file["shared_id"][:])},
                distractor_signals=np.asarray(file["signal_distractors"]),
                noise_sd=np.asarray(file["noise_sd"], np.float64),
                loadings=np.asarray(file["loadings"], np.float64),
                used=~np.asarray(file["constant"], bool),
                **{name: array.astype(np.float64) for name, array in arrays.items()},
            )

    def log_likelihood(
        self, study: Study, rows: NDArray[np.int64], gallery: Sequence[str]
    ) -> tuple[list[str], Floats]:
        """Return the log-likelihood of every gallery image given the averaged repeats of every image in `rows`.

        Parameters
        ----------
        study : Study
            Of this subject, all voxels of nsdgeneral.
        rows : int array
            Rows of the study; repeats of an image are averaged.
        gallery : sequence of str
            Stimulus ids.

        Returns
        -------
        ids : list of str
            Images in order of first appearance.
        array of shape (images, gallery)
            Up to a constant of each image.
        """
        ids, weighted, repeats = self._averaged(study, rows)
        return ids, self._against(weighted, repeats, self._signals_of(gallery))

    def retrieval(
        self,
        study: Study,
        rows: NDArray[np.int64],
        gallery: Sequence[str] | None = None,
        gallery_size: int | None = None,
    ) -> tuple[list[str], Floats]:
        """Return each image's exact top-1 in random galleries of `gallery_size` (by default the images in `rows`)."""
        ids = list(dict.fromkeys(study.stimulus_ids[rows]))
        gallery = ids if gallery is None else list(gallery)
        column = {stimulus_id: k for k, stimulus_id in enumerate(gallery)}
        ids, likelihood = self.log_likelihood(study, rows, gallery)
        if any(i not in column for i in ids):
            raise InputError("`gallery`", expected="every image seen", found=f"{len(gallery)} others")
        found = ranks(likelihood, np.array([column[i] for i in ids]))
        size = len(gallery) if gallery_size is None else gallery_size
        return ids, top_k_random_gallery(found, len(gallery), size)

    def identification(self, study: Study, rows: NDArray[np.int64]) -> tuple[list[str], Floats]:
        """Return each image's share of matched distractors that are less likely than the image itself."""
        ids, weighted, repeats = self._averaged(study, rows)
        unknown = [i for i in ids if i not in self.distractors]
        if unknown:
            raise InputError(
                "`rows`", expected="shared images, which have distractors", found=f"image {unknown[0]}"
            )
        own = self._signals_of(ids)
        shares = []
        for k, stimulus_id in enumerate(ids):
            others = self.distractor_signals[self.distractors[stimulus_id]].astype(np.float64)
            candidates = np.concatenate([own[k : k + 1], others])
            likelihood = self._against(weighted[k : k + 1], repeats[k : k + 1], candidates)[0]
            shares.append(np.mean(likelihood[1:] < likelihood[0]))
        return ids, np.array(shares)

    def summary(
        self, study: Study, rows: NDArray[np.int64], gallery_size: int | None = None
    ) -> dict[str, Any]:
        """Return the ceilings of retrieval (top-1) and of identification among matched distractors, for the report."""
        ids, top1 = self.retrieval(study, rows, gallery_size=gallery_size)
        result: dict[str, Any] = {
            "retrieval_brain_to_image_top1": float(top1.mean()),
            "gallery": len(ids) if gallery_size is None else gallery_size,
            "n": len(ids),
        }
        if all(i in self.distractors for i in ids):
            result["identification_matched"] = float(self.identification(study, rows)[1].mean())
        return result

    def _signals_of(self, ids: Sequence[str]) -> Floats:
        missing = [i for i in ids if i not in self.signal]
        if missing:
            raise InputError("`ids`", expected="images of this subject", found=f"image {missing[0]}")
        return self.signals[[self.signal[i] for i in ids]].astype(np.float64)

    def _averaged(self, study: Study, rows: NDArray[np.int64]) -> tuple[list[str], Floats, Floats]:
        """Return ids, ``C^-1 y`` of their averaged repeats, and the numbers of repeats."""
        check_shape("responses", study.responses, "trials voxels", voxels=len(self.mean))
        betas = np.asarray(study.responses[rows], np.float64)
        session = study.trials["session"].to_numpy()[rows] - 1
        y = ((betas - self.mean) / self.trial_sd - self.offset[session]) / self.gain[session]
        ids = list(dict.fromkeys(study.stimulus_ids[rows]))
        position = {stimulus_id: k for k, stimulus_id in enumerate(ids)}
        index = np.array([position[i] for i in study.stimulus_ids[rows]])
        repeats = np.bincount(index, minlength=len(ids)).astype(np.float64)
        sums = np.zeros((len(ids), y.shape[1]))
        np.add.at(sums, index, y)
        return ids, self._solve(sums / repeats[:, None]), repeats

    def _against(self, weighted: Floats, repeats: Floats, signals: Floats) -> Floats:
        kept = signals[:, self.used]
        norms = np.einsum("jv,jv->j", self._solve(signals), kept)
        return np.asarray(repeats[:, None] * (weighted @ kept.T - norms / 2))

    def _solve(self, values: Floats) -> Floats:
        """Return ``C^-1`` times each row over the voxels used, by Woodbury's identity."""
        kept, loadings = values[:, self.used], self.loadings[:, self.used]
        alone = np.square(self.noise_sd[self.used]) - np.square(loadings).sum(0)
        scaled = loadings / alone  # (rank, voxels)
        inner = np.eye(len(loadings)) + scaled @ loadings.T
        return np.asarray(kept / alone - (kept @ scaled.T) @ np.linalg.solve(inner, scaled))
