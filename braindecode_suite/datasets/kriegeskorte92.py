"""`kriegeskorte92`: 92 object images and how unlike each other human inferior temporal cortex finds them, four people in two sessions.

The recordings are not in the files, only their dissimilarities (1 - r between response patterns). A row of a study is an image in
a session, and its units are the dissimilarities to all images, so that the rows of one session are its matrix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.io import loadmat

from braindecode_suite.core.checks import check_file, check_option
from braindecode_suite.core.config import Config, NoOptions, build_options
from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.files import data_hash, file_sha256
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.lab_files import DAMAGED, check_inside, count_repeats, one_line

RDMS, IMAGES = "92_brainRDMs.mat", "Kriegeskorte_Neuron2008_supplementalData.mat"
NAME = re.compile(r"\s*hIT\s*\|\s*(\w+)\s*\|\s*Session:\s*(\d+)\s*")
ATTRIBUTES = ("human", "face", "animal", "natural")
UNIT = "1 - r of response patterns"


class Kriegeskorte92:
    """Loader of the two files; subjects are labelled by their initials."""

    card = DatasetCard(
        name="kriegeskorte92",
        title="92 objects in human inferior temporal cortex: dissimilarities of four people",
        modality="fMRI, as dissimilarity matrices",
        terms="MIT licence of the toolbox that distributes them (rsatoolbox); ask the authors before showing the images elsewhere",
        size="4 subjects, 2 sessions, 92 images of 175 x 175; 3.8 MB",
        tree=f"{RDMS:<46}RDMs: a matrix (92, 92) a subject and session\n"
        f"{IMAGES:<46}stimuli_92objs: images and what they show",
        citation="Kriegeskorte, Mur, Ruff, Kiani, Bodurka, Esteky, Tanaka, Bandettini 2008, Neuron 60(6), 1126-1141, "
        "doi:10.1016/j.neuron.2008.10.043",
        protocols=("random-by-image",),
        workflow="representational-similarity",
        preset="default",
        source="Both files are in the demos of github.com/rsagroup/rsatoolbox (92imageData).",
    )

    options_class: ClassVar[type[Config]] = NoOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels in the file, in its order; none where it cannot be read."""
        if not (data_dir / RDMS).is_file():
            return []
        try:
            return list(dict.fromkeys(label for label, _ in read_rdms(data_dir / RDMS)))
        except InputError:
            return []

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Return one subject's matrices as a study: 92 rows a session, in the order of the images.

        Raises
        ------
        InputError
            If a file is missing, damaged or foreign, a matrix is not square, symmetric, finite and 0 on its diagonal, or images and
            matrices differ in number.
        """
        build_options(NoOptions, options, self.card.name)
        path = check_inside(data_dir, check_file(data_dir / RDMS, "the dissimilarities of kriegeskorte92"))
        images = check_inside(data_dir, check_file(data_dir / IMAGES, "the images of kriegeskorte92"))
        rdms = read_rdms(path)
        check_option("subject", subject, list(dict.fromkeys(label for label, _ in rdms)))
        stimuli = ObjectImages(images)
        own = {session: rdm for (label, session), rdm in rdms.items() if label == subject}
        n_images = len(stimuli.ids)
        if any(len(rdm) != n_images for rdm in own.values()):
            found = str(next(rdm.shape for rdm in own.values() if len(rdm) != n_images))
            raise InputError(path, expected=f"matrices of the {n_images} images", found=found)
        ids = pd.Series(list(stimuli.ids) * len(own), dtype=object)
        trials = pd.DataFrame({"stimulus_id": ids})
        trials["session"] = np.repeat(sorted(own), n_images)
        trials["run"], trials["repeat"], trials["onset"] = 1, count_repeats(ids), np.nan
        return Study(
            dataset="kriegeskorte92",
            subject=subject,
            responses=np.concatenate([own[session] for session in sorted(own)]).astype(np.float32),
            trials=trials,
            stimuli=stimuli,
            space=UnitSpace(n_images, unit="dissimilarity to an image"),
            unit=UNIT,
            provenance={
                "files": {name: file_sha256(data_dir / name) for name in (RDMS, IMAGES)},
                "terms": self.card.terms,
                "shared_noise": "units are dissimilarities to all images, those held out included",
                "warnings": [
                    "A unit is the dissimilarity to another image: rows held out by a split are still units of the training rows, so "
                    "that nothing should be decoded from these. They are for comparing dissimilarities.",
                    "Only matrices are in the files: which voxels they are of, and how reliable these were, is in the paper.",
                ],
            },
        )

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return whether both files are there and whole, and whether their images are in one order."""
        lines = [FileCheck(name, "missing") for name in (RDMS, IMAGES) if not (data_dir / name).is_file()]
        if lines:
            return lines
        try:
            rdms = read_rdms(check_inside(data_dir, data_dir / RDMS))
        except InputError as error:
            return [FileCheck(RDMS, "bad", f"{error.found} instead of {error.expected}")]
        found = ", ".join(f"{label} session {session}" for label, session in rdms)
        lines = [FileCheck(RDMS, "ok", found)]
        try:
            study = self.open(data_dir, next(iter(rdms))[0], data_dir)
            assert study.stimuli is not None
            images = study.stimuli.images(list(study.stimuli.ids))
        except InputError as error:
            return [*lines, FileCheck(IMAGES, "bad", f"{error.found} instead of {error.expected}")]
        return [
            *lines,
            FileCheck(IMAGES, "ok", f"{len(images)} images of {images.shape[2]} x {images.shape[1]}"),
        ]


KRIEGESKORTE92 = Kriegeskorte92()


class ObjectImages:
    """The images by their number, ``01`` to ``92``, read when they are first asked for.

    Attributes
    ----------
    ids : sequence of str
    attributes : DataFrame
        ``category``, and whether an image is ``human``, ``face``, ``animal``, ``natural``.
    fingerprint : str
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids: Sequence[str] = tuple(f"{number:02d}" for number in range(1, len(self._read()) + 1))
        self.attributes: pd.DataFrame | None = self._attributes()
        self.fingerprint = data_hash(file_sha256(path))

    @cached_property
    def _objects(self) -> np.ndarray:
        try:
            return np.ravel(loadmat(str(self.path), variable_names=["stimuli_92objs"])["stimuli_92objs"])
        except (*DAMAGED, NotImplementedError) as error:
            raise InputError(
                self.path, expected="a MATLAB file with stimuli_92objs", found=one_line(error)
            ) from error

    def _read(self) -> np.ndarray:
        names = self._objects.dtype.names or ()
        missing = [name for name in ("image", "category", *ATTRIBUTES) if name not in names]
        if missing or len(self._objects) < 3:
            raise InputError(
                self.path,
                expected="stimuli_92objs with image, category, human, face, animal and natural",
                found=f"{len(self._objects)} without {', '.join(missing)}"
                if missing
                else str(len(self._objects)),
            )
        return self._objects

    def _attributes(self) -> pd.DataFrame:
        try:
            columns: dict[str, list[Any]] = {"category": [str(one["category"][0]) for one in self._objects]}
            for name in ATTRIBUTES:
                columns[name] = [bool(np.ravel(one[name])[0]) for one in self._objects]
        except DAMAGED as error:
            raise InputError(self.path, expected="what each image shows", found=one_line(error)) from error
        return pd.DataFrame(columns, index=pd.Index(list(self.ids), name="stimulus_id"))

    @cached_property
    def _pixels(self) -> np.ndarray:
        found = [np.asarray(one["image"]) for one in self._objects]
        for number, image in enumerate(found, 1):
            if (
                image.dtype != np.uint8
                or image.shape != found[0].shape
                or image.ndim != 3
                or image.shape[2] != 3
            ):
                raise InputError(
                    self.path,
                    expected=f"images of uint8 of shape (height, width, 3), as the first is {found[0].shape}",
                    found=f"image {number} of {image.dtype}, {image.shape}",
                )
        return np.stack(found)

    def images(self, ids: Sequence[str]) -> np.ndarray:
        """Return uint8 images of shape (len(ids), height, width, 3)."""
        at = {stimulus_id: k for k, stimulus_id in enumerate(self.ids)}
        unknown = [i for i in ids if i not in at]
        if unknown:
            raise UnknownName(
                "stimulus id", expected=f"{self.ids[0]} to {self.ids[-1]}", found=repr(unknown[0])
            )
        return np.asarray(self._pixels[[at[i] for i in ids]])

    def captions(self, stimulus_id: str) -> list[str]:
        """Return no captions: there are none."""
        return []

    def distractors(self, stimulus_id: str) -> np.ndarray | None:
        """Return None: there are no matched images."""
        return None


def read_rdms(path: Path) -> dict[tuple[str, int], np.ndarray]:
    """Read the matrices by subject and session.

    Returns
    -------
    dict of (label, session) to array of float64 of shape (images, images)
    """
    try:
        entries = np.ravel(loadmat(str(path), variable_names=["RDMs"])["RDMs"])
        named = [(str(np.ravel(one["name"])[0]), np.asarray(one["RDM"], np.float64)) for one in entries]
    except (*DAMAGED, NotImplementedError) as error:
        raise InputError(
            path, expected="a MATLAB file with RDMs of name and RDM", found=one_line(error)
        ) from error
    found: dict[tuple[str, int], np.ndarray] = {}
    for name, rdm in named:
        match = NAME.fullmatch(name)
        if match is None:
            raise InputError(path, expected="names such as 'hIT | BE | Session: 1'", found=repr(name))
        key = (match[1], int(match[2]))
        if key in found:
            raise InputError(path, expected="each subject and session once", found=f"{name!r} again")
        square = rdm.ndim == 2 and rdm.shape[0] == rdm.shape[1] and len(rdm) >= 3
        if not square or not np.isfinite(rdm).all() or not np.allclose(rdm, rdm.T) or np.diag(rdm).any():
            what = f"shape {rdm.shape}" if not square else "another"
            if square and not np.isfinite(rdm).all():
                what = f"{int((~np.isfinite(rdm)).sum())} NaN or infinite values"
            raise InputError(
                path, expected=f"a symmetric finite matrix with 0 on its diagonal as {name!r}", found=what
            )
        found[key] = rdm
    if not found:
        raise InputError(path, expected="at least one matrix", found="none")
    return found
