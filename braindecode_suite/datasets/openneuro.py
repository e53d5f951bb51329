"""OpenNeuro's public bucket: what a dataset has there, and which of it is wanted.

The bucket answers anybody's ListObjectsV2 over HTTPS; its keys are ``<accession number>/<path in the BIDS dataset>``, of the latest
snapshot. An ETag is the MD5 of a file that was uploaded in one part, see `etag_agrees`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import requests

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.download import PATIENT, Patience, read_page
from braindecode_suite.datasets.lab_files import check_inside, one_line

BUCKET = "https://s3.amazonaws.com/openneuro.org"
ACCESSION = re.compile(r"ds\d{6}")
SUBJECT = re.compile(r"(?:^|/)sub-([A-Za-z0-9]+)")


@dataclass(frozen=True)
class OtherLabels:
    """How a dataset calls its subjects where it does not use their BIDS labels.

    Attributes
    ----------
    label, in_path : re.Pattern
        A whole label, and a label within a path; the first group is what both names share.
    prefix : str
        Of the BIDS label.
    """

    label: re.Pattern[str]
    in_path: re.Pattern[str]
    prefix: str


OTHER_LABELS: Mapping[str, OtherLabels] = {
    # THINGS-MEG: preprocessed_P1-epo.fif, preprocessed_P1-epo-1.fif and sample_attributes_P1.csv belong to sub-BIGMEG1
    "ds004212": OtherLabels(re.compile(r"P(\d+)"), re.compile(r"_P(\d+)[-.][^/]*$"), "BIGMEG"),
}


@dataclass(frozen=True)
class RemoteFile:
    """One file of a dataset in the bucket.

    Attributes
    ----------
    path : PurePosixPath
        Below the dataset's folder; no way leads out of it.
    size : int
        Bytes.
    etag : str
    """

    path: PurePosixPath
    size: int
    etag: str

    @property
    def subject(self) -> str:
        """Label of the subject it belongs to, empty where it belongs to none."""
        match = SUBJECT.search(str(self.path))
        return match[1] if match else ""


def list_files(
    session: requests.Session, bucket: str, accession: str, patience: Patience = PATIENT
) -> list[RemoteFile]:
    """Return all files of a dataset, page after page.

    Parameters
    ----------
    session : requests.Session
    bucket : str
        Address, such as `BUCKET`.
    accession : str
        ``ds001499``.
    patience : Patience

    Raises
    ------
    InputError
        If the dataset is not there, the answer is no listing, or a key would lead out of the dataset's folder.
    DownloadError
        If the bucket cannot be reached.
    """
    files: list[RemoteFile] = []
    token = ""
    while True:
        parameters = {"list-type": "2", "prefix": f"{accession}/"}
        if token:
            parameters["continuation-token"] = token
        page = read_page(session, bucket, parameters, patience)
        some, following = parse_listing(page, bucket, accession)
        files += some
        if not following:
            break
        if following == token:
            raise InputError(bucket, expected="the next page of the listing", found="the same page again")
        token = following
    if not files:
        raise InputError(bucket, expected=f"files of {accession}", found="none")
    return files


def parse_listing(page: bytes, bucket: str, accession: str) -> tuple[list[RemoteFile], str]:
    """Return the files of one page of ListObjectsV2, and the token of the next page, empty on the last.

    Examples
    --------
    >>> page = b"<ListBucketResult><Contents><Key>ds000001/README</Key><Size>7</Size><ETag>&quot;a0&quot;</ETag></Contents></ListBucketResult>"
    >>> parse_listing(page, "bucket", "ds000001")
    ([RemoteFile(path=PurePosixPath('README'), size=7, etag='a0')], '')
    """
    try:
        root = ElementTree.fromstring(page)
    except ElementTree.ParseError as error:
        raise InputError(bucket, expected="a listing of the bucket (XML)", found=one_line(error)) from error
    if _name(root) != "ListBucketResult":
        raise InputError(
            bucket, expected="a listing of the bucket (ListBucketResult)", found=f"<{_name(root)}>"
        )
    files = []
    for entry in _children(root, "Contents"):
        key, size, etag = (_text(entry, name) for name in ("Key", "Size", "ETag"))
        if key.endswith("/"):  # some clients leave empty objects in place of folders
            continue
        if not size.isdecimal():
            raise InputError(bucket, expected=f"the size of {key!r} in bytes", found=repr(size))
        files.append(RemoteFile(relative_path(key, accession), int(size), etag.strip('"')))
    token = _text(root, "NextContinuationToken")
    if _text(root, "IsTruncated") != "true":
        return files, ""
    if not token:
        raise InputError(bucket, expected="a token for the next page of the listing", found="none")
    return files, token


def relative_path(key: str, accession: str) -> PurePosixPath:
    """Return the path of a key below the dataset's folder; one that leads out of it is an `InputError`.

    Examples
    --------
    >>> relative_path("ds001499/sub-CSI1/ses-01/a.tsv", "ds001499")
    PurePosixPath('sub-CSI1/ses-01/a.tsv')
    """
    inside = key.removeprefix(f"{accession}/")
    parts = inside.split("/")
    if inside == key or any(p in ("", ".", "..") or "\\" in p or not p.isprintable() for p in parts):
        raise InputError("a key of the bucket", expected=f"a path inside {accession}/", found=repr(key))
    return PurePosixPath(inside)


def select_files(
    files: Sequence[RemoteFile],
    subjects: Sequence[str] = (),
    patterns: Sequence[str] = (),
    accession: str = "",
) -> list[RemoteFile]:
    """Return the files wanted: of these subjects, with whatever belongs to no subject, and of these patterns.

    Parameters
    ----------
    files : sequence of RemoteFile
    subjects : sequence of str
        Labels; all where empty.
    patterns : sequence of str
        Shell patterns of paths (``*`` goes through folders); all where empty. Files at the top are always taken.
    accession : str
        Of the dataset, which may have other names for its subjects (`OTHER_LABELS`); both names are taken.

    Raises
    ------
    InputError
        If a subject has no file.
    """
    other = OTHER_LABELS.get(accession)

    def owner(file: RemoteFile) -> str:
        match = None if file.subject or other is None else other.in_path.search(str(file.path))
        return file.subject if match is None or other is None else other.prefix + match[1]

    def bids_label(label: str) -> str:
        match = None if other is None else other.label.fullmatch(label)
        return label if match is None or other is None else other.prefix + match[1]

    subjects = [bids_label(subject) for subject in subjects]
    known = sorted({owner(file) for file in files} - {""})
    for subject in subjects:
        check_option("--participant-label", subject, known)
    return [
        file
        for file in files
        if (not subjects or owner(file) in ("", *subjects))
        and (not patterns or len(file.path.parts) == 1 or _matches(str(file.path), patterns))
    ]


def place(data_dir: Path, file: RemoteFile) -> Path:
    """Return where a file belongs below `data_dir`; a link there that leads out is an `InputError`."""
    target = data_dir / file.path
    check_inside(data_dir, target.parent)
    return target


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _children(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if _name(child) == name)


def _text(element: ElementTree.Element, name: str) -> str:
    child = next(_children(element, name), None)
    return "" if child is None or child.text is None else child.text
