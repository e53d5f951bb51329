"""``bds fetch`` against a bucket on this machine that fails in every way a line can; nothing leaves the loopback."""

from __future__ import annotations

import hashlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from braindecode_suite.cli import main
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets import DATASETS
from braindecode_suite.datasets.download import Patience, etag_agrees, open_session, part_path
from braindecode_suite.datasets.openneuro import RemoteFile, parse_listing, relative_path
from braindecode_suite.workflows import fetch as fetching
from braindecode_suite.workflows.fetch import fetch_dataset
from tests.bucket_server import Bucket, serve
from tests.release_writers import write_bold5000, write_things

QUICK = Patience(tries=3, pause=0.01, timeout=5.0)
EVENTS = "sub-CSI1/ses-01/func/sub-CSI1_ses-01_task-5000scenes_run-01_events.tsv"
BOLD = "sub-CSI1/ses-01/func/sub-CSI1_ses-01_task-5000scenes_run-01_bold.nii.gz"
BIG = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture(autouse=True)
def only_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self, address):
        assert address[0] in ("127.0.0.1", "::1"), f"a connection to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    files = {
        "README": b"read me",
        "dataset_description.json": b"{}",
        EVENTS: b"onset\tduration\n",
        EVENTS.replace("CSI1", "CSI2"): b"onset\tduration\n6\t1\n",
        BOLD: BIG,
        "derivatives/spm/sub-CSI1/sub-CSI1_mask-LHPPA.nii.gz": b"mask of one",
        "derivatives/spm/sub-CSI2/sub-CSI2_mask-LHPPA.nii.gz": b"mask of two",
    }
    with serve(Bucket({f"ds001499/{path}": content for path, content in files.items()})) as made:
        made.objects["ds0014990/other"] = b"another dataset"
        yield made


def fetch(bucket: Bucket, folder: Path, name: str = "bold5000", **options) -> int:
    return fetch_dataset(name, folder, bucket=bucket.address, patience=QUICK, **options)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def asked_for(bucket: Bucket, path: str) -> list[str]:
    """Return the Range of every request for one file."""
    return [ranges for url, ranges in bucket.asked if url.endswith(f"/{path}")]


def test_what_the_loader_reads_is_downloaded_and_the_rest_only_when_asked_for(bucket, tmp_path, capsys):
    assert fetch(bucket, tmp_path / "data") == 0
    expected = {
        k.removeprefix("ds001499/"): v for k, v in bucket.objects.items() if k.startswith("ds001499/")
    }
    found = files_below(tmp_path / "data")
    assert found == {path: content for path, content in expected.items() if path != BOLD}
    shown = capsys.readouterr().out
    assert "terms: Design and BOLD: CC0" in shown
    assert "6 of 7 files" in shown
    assert "6 downloaded" in shown
    assert "not there: Betas" in shown
    assert "bds check bold5000 --data-dir" in shown
    assert fetch(bucket, tmp_path / "data", everything=True) == 0
    assert files_below(tmp_path / "data") == expected
    assert "1 downloaded" in capsys.readouterr().out


def test_any_openneuro_number_is_taken_whole(bucket, tmp_path):
    assert fetch(bucket, tmp_path, "ds001499") == 0
    assert files_below(tmp_path)[BOLD] == BIG


def test_participants_come_with_what_belongs_to_none(bucket, tmp_path):
    assert fetch(bucket, tmp_path, subjects=("CSI2",)) == 0
    assert set(files_below(tmp_path)) == {
        "README",
        "dataset_description.json",
        EVENTS.replace("CSI1", "CSI2"),
        "derivatives/spm/sub-CSI2/sub-CSI2_mask-LHPPA.nii.gz",
    }
    with pytest.raises(InputError, match=r"`--participant-label`: expected one of CSI1, CSI2; found 'CSI9'"):
        fetch(bucket, tmp_path, subjects=("CSI9",))


@pytest.mark.parametrize("label", ["P1", "BIGMEG1"])
def test_subjects_of_things_meg_have_two_names_and_come_with_their_epochs(tmp_path, label):
    def raw(number: int, task: str = "main") -> str:
        return f"sub-BIGMEG{number}/ses-01/meg/sub-BIGMEG{number}_ses-01_task-{task}_run-01_meg.ds/x.res4"

    mine = {
        raw(1),
        "sourcedata/sample_attributes_P1.csv",
        "derivatives/preprocessed/preprocessed_P1-epo.fif",
        "derivatives/preprocessed/preprocessed_P1-epo-1.fif",
    }
    others = {path.replace("_P1", "_P2").replace("BIGMEG1", "BIGMEG2") for path in mine} | {raw(1, "rest")}
    objects = {f"ds004212/{path}": path.encode() for path in {"README", *mine, *others}}
    with serve(Bucket(objects)) as bucket:
        assert fetch(bucket, tmp_path, "things-meg", subjects=(label,)) == 0
        assert set(files_below(tmp_path)) == {"README", *mine}
        with pytest.raises(InputError, match="expected one of BIGMEG1, BIGMEG2; found 'BIGMEG3'"):
            fetch(bucket, tmp_path, "things-meg", subjects=("P3",))


@pytest.mark.parametrize("page", [1, 2, 3, 7])
def test_a_listing_of_many_pages_is_read_to_its_end(bucket, tmp_path, page):
    bucket.page = page
    assert fetch(bucket, tmp_path, everything=True) == 0
    assert len(files_below(tmp_path)) == 7


def test_a_line_that_drops_again_and_again_is_taken_up_where_it_broke(bucket, tmp_path):
    bucket.drops[f"ds001499/{BOLD}"] = [1_200_000, 700_000, 1, 400_000]
    assert fetch(bucket, tmp_path, everything=True) == 0
    assert files_below(tmp_path)[BOLD] == BIG
    ranges = asked_for(bucket, BOLD)
    assert ranges[0] == ""
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in ranges[1:]]
    assert len(starts) == 4
    assert starts == sorted(starts)
    assert 0 < starts[0] <= 1_200_000
    assert starts[-1] > 1_500_000


def test_a_later_call_goes_on_and_nothing_has_its_final_name_before_it_is_whole(bucket, tmp_path, capsys):
    bucket.drops[f"ds001499/{BOLD}"] = [2_100_000, 0, 0, 0, 0]
    assert fetch(bucket, tmp_path, everything=True) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert error[0].startswith(f"{BOLD}: ")
    assert not (tmp_path / BOLD).exists()
    part = part_path(tmp_path / BOLD, bucket.etag(f"ds001499/{BOLD}"))
    assert part.read_bytes() == BIG[: part.stat().st_size]
    have = part.stat().st_size
    assert have > 1_000_000
    bucket.asked.clear()
    bucket.drops.clear()
    assert fetch(bucket, tmp_path, everything=True) == 0
    assert asked_for(bucket, BOLD) == [f"bytes={have}-"]
    assert files_below(tmp_path)[BOLD] == BIG
    assert not part.exists()


def test_a_server_that_knows_no_ranges_is_read_from_the_start(bucket, tmp_path):
    bucket.ranges = "ignored"
    bucket.drops[f"ds001499/{BOLD}"] = [2_100_000]
    assert fetch(bucket, tmp_path, everything=True) == 0
    assert len(asked_for(bucket, BOLD)) == 2
    assert files_below(tmp_path)[BOLD] == BIG


def test_other_bytes_than_asked_for_are_not_appended(bucket, tmp_path, capsys):
    bucket.ranges = "shifted"
    bucket.drops[f"ds001499/{BOLD}"] = [2_100_000]
    assert fetch(bucket, tmp_path, everything=True) == 1
    assert "asked for bytes from" in capsys.readouterr().err
    assert not (tmp_path / BOLD).exists()


def test_part_of_another_version_is_never_continued(bucket, tmp_path):
    bucket.drops[f"ds001499/{BOLD}"] = [2_100_000, 0, 0, 0, 0]
    assert fetch(bucket, tmp_path, everything=True) == 1
    bucket.drops.clear()
    bucket.asked.clear()
    bucket.objects[f"ds001499/{BOLD}"] = newer = BIG[::-1]
    assert fetch(bucket, tmp_path, everything=True) == 0
    assert asked_for(bucket, BOLD) == [""]
    assert files_below(tmp_path)[BOLD] == newer
    assert not list(tmp_path.rglob("*.part"))


def test_parts_of_a_file_with_a_longer_name_are_left_alone(bucket, tmp_path):
    for name in ("sub-CSI1/bold.json", "sub-CSI1/bold.json.json"):
        bucket.objects[f"ds001499/{name}"] = name.encode() * 10
    part = part_path(tmp_path / "sub-CSI1/bold.json.json", bucket.etag("ds001499/sub-CSI1/bold.json.json"))
    part.parent.mkdir()
    part.write_bytes(b"sub-CSI1/bold.json.jsonsub")
    assert fetch(bucket, tmp_path) == 0
    assert asked_for(bucket, "sub-CSI1/bold.json.json") == ["bytes=26-"]


def test_wrong_bytes_are_fetched_again_and_refused_the_second_time(bucket, tmp_path, capsys):
    bucket.wrong = {f"ds001499/{EVENTS}": 1, "ds001499/README": 9}
    assert fetch(bucket, tmp_path) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.strip().splitlines()
    assert line.startswith(
        "README: expected 7 bytes with the checksum of the listing; found 7 bytes of other"
    )
    assert "5 downloaded, 1 failed" in shown.out or "1 failed, 5 downloaded" in shown.out
    found = files_below(tmp_path)
    assert found[EVENTS] == bucket.objects[f"ds001499/{EVENTS}"]
    assert set(found) == {k.removeprefix("ds001499/") for k in bucket.objects if "ds001499/" in k} - {
        "README",
        BOLD,
    }


def test_a_busy_bucket_is_asked_again(bucket, tmp_path):
    bucket.busy = 1
    assert fetch(bucket, tmp_path) == 0
    listing = [url for url, _ in bucket.asked if "list-type" in url]
    assert len(listing) == 2
    (tmp_path / "README").unlink()
    session = open_session(bucket.address)
    from braindecode_suite.datasets.download import download

    bucket.busy = 2
    etag = bucket.etag("ds001499/README")
    assert download(
        session, f"{bucket.address}/ds001499/README", tmp_path / "README", 7, etag, patience=QUICK
    )
    assert (tmp_path / "README").read_bytes() == b"read me"


def test_a_bucket_that_stays_busy_is_given_up_in_one_line(bucket, tmp_path, capsys):
    bucket.busy = 99
    assert fetch(bucket, tmp_path / "data") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "answered 503" in line
    assert "(3 tries)" in line
    assert len(bucket.asked) == 3
    assert not (tmp_path / "data").exists()


def test_a_file_that_has_gone_is_told_and_the_others_come(bucket, tmp_path, capsys, monkeypatch):
    page = bucket.listing("ds001499/", "")
    bucket.objects.pop("ds001499/README")
    monkeypatch.setattr(bucket, "listing", lambda prefix, token: page)
    assert fetch(bucket, tmp_path) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("README: ")
    assert "404" in line
    assert (tmp_path / EVENTS).is_file()


def test_what_is_there_and_right_is_not_asked_for_again(bucket, tmp_path, capsys):
    assert fetch(bucket, tmp_path) == 0
    (tmp_path / EVENTS).write_bytes(b"onset\tDURATION\n")  # of the same length
    (tmp_path / "README").write_bytes(b"read")
    before = (tmp_path / "dataset_description.json").stat().st_mtime_ns
    bucket.asked.clear()
    capsys.readouterr()
    assert fetch(bucket, tmp_path) == 0
    assert sorted(url.removeprefix("/bucket/ds001499/") for url, _ in bucket.asked[1:]) == ["README", EVENTS]
    shown = capsys.readouterr()
    assert "4 there already" in shown.out
    assert sorted(shown.err.strip().splitlines()) == [
        "README: was there with other content: replaced",
        f"{EVENTS}: was there with other content: replaced",
    ]
    assert (tmp_path / EVENTS).read_bytes() == bucket.objects[f"ds001499/{EVENTS}"]
    assert (tmp_path / "dataset_description.json").stat().st_mtime_ns == before


def test_a_dry_run_lists_and_writes_nothing(bucket, tmp_path, capsys):
    assert fetch(bucket, tmp_path / "data", everything=True, dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"   3.0 MB  {BOLD}" in lines
    assert not (tmp_path / "data").exists()
    assert len(bucket.asked) == 1


def test_a_compressed_file_is_stored_as_it_is_in_the_bucket(bucket, tmp_path):
    import gzip

    key = "ds001499/derivatives/spm/sub-CSI1/sub-CSI1_mask-LHPPA.nii.gz"
    bucket.objects[key] = gzip.compress(b"a mask" * 100)
    bucket.headers["Content-Encoding"] = "gzip"
    assert fetch(bucket, tmp_path, subjects=("CSI1",)) == 0
    assert (tmp_path / key.removeprefix("ds001499/")).read_bytes() == bucket.objects[key]
    assert {headers["Accept-Encoding"] for headers in bucket.seen} == {"identity"}


def test_an_empty_file_is_made(bucket, tmp_path):
    bucket.objects["ds001499/CHANGES"] = b""
    assert fetch(bucket, tmp_path) == 0
    assert (tmp_path / "CHANGES").read_bytes() == b""


def test_names_that_an_address_must_escape_are_asked_for_as_they_are(bucket, tmp_path):
    name = "stimulus list #2 +50%.json"
    bucket.objects[f"ds001499/{name}"] = b"{}"
    assert fetch(bucket, tmp_path) == 0
    assert (tmp_path / name).is_file()


# ------------------------------------------------------------------------------------------------------ checksums


def etag_of(content: bytes, length: int) -> str:
    parts = [content[k : k + length] for k in range(0, len(content), length)]
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    return f"{hashlib.md5(digests).hexdigest()}-{len(parts)}"


@pytest.mark.parametrize("mib", [5, 8, 16])
def test_the_etag_of_parts_is_found_by_trying_the_sizes_in_use(tmp_path, mib):
    content = np.random.default_rng(1).bytes(17 * 2**20 + 5)
    path = tmp_path / "file"
    path.write_bytes(content)
    etag = etag_of(content, mib * 2**20)
    assert etag_agrees(path, etag) is True
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert etag_agrees(path, etag) is None  # it may be parts of another size: nothing can be said


def test_one_part_by_itself_and_whole_files_are_compared(tmp_path):
    path = tmp_path / "file"
    for content in (b"", b"abc", BIG):
        path.write_bytes(content)
        assert etag_agrees(path, hashlib.md5(content).hexdigest()) is True
        assert etag_agrees(path, hashlib.md5(content + b"x").hexdigest()) is False
    assert etag_agrees(path, etag_of(BIG, len(BIG))) is True
    assert etag_agrees(path, etag_of(BIG, 1_000_003)) is None
    assert etag_agrees(path, "not-an-md5") is None


def test_a_file_whose_checksum_nobody_can_compare_is_said_to_be_compared_by_size(bucket, tmp_path, capsys):
    key = f"ds001499/{BOLD}"
    bucket.etags[key] = etag_of(BIG, 1_000_003)
    assert fetch(bucket, tmp_path, everything=True) == 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == f"{BOLD}: only its size could be compared (ETag {bucket.etags[key]})"
    bucket.asked.clear()
    assert fetch(bucket, tmp_path, everything=True) == 0
    assert not asked_for(bucket, BOLD)


# ---------------------------------------------------------------------------------------------- what is not trusted


@pytest.mark.parametrize(
    "key",
    [
        "ds001499/../outside.tsv",
        "ds001499/sub-01/../../outside.tsv",
        "ds001499//outside.tsv",
        "ds001499/./README",
        "ds001499/sub-01\\..\\outside.tsv",
        "ds001499/new\nline",
        "elsewhere/README",
    ],
)
def test_a_key_that_would_lead_out_of_the_folder_stops_everything(bucket, tmp_path, key):
    with pytest.raises(InputError, match=r"a key of the bucket: expected a path inside ds001499/; found"):
        relative_path(key, "ds001499")
    if "\n" in key:
        return
    bucket.objects = {key if key.startswith("ds001499/") else f"ds001499/../{key}": b"evil", **bucket.objects}
    with pytest.raises(InputError, match="expected a path inside ds001499/"):
        fetch(bucket, tmp_path / "data")
    assert not files_below(tmp_path)


def test_a_link_that_leads_out_of_the_folder_is_not_followed(bucket, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "data" / "sub-CSI1").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match=r"expected a file inside .*data; found a link to .*outside"):
        fetch(bucket, tmp_path / "data")
    assert not files_below(tmp_path)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (b"<html><body>Sign in to the network", r"expected a listing of the bucket \(XML\)"),
        (b"<html><body>Sign in</body></html>", r"expected a listing .*ListBucketResult\); found <html>"),
        (
            b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            "expected a token for the next page of the listing; found none",
        ),
        (
            b"<ListBucketResult><Contents><Key>ds001499/a</Key><Size>-3</Size></Contents></ListBucketResult>",
            "expected the size of 'ds001499/a' in bytes; found '-3'",
        ),
    ],
)
def test_an_answer_that_is_no_listing_is_refused(page, message):
    with pytest.raises(InputError, match=message):
        parse_listing(page, "http://bucket", "ds001499")


def test_placeholders_of_folders_are_no_files():
    page = (
        b"<ListBucketResult><Contents><Key>ds001499/sub-01/</Key><Size>0</Size></Contents></ListBucketResult>"
    )
    assert parse_listing(page, "bucket", "ds001499") == ([], "")


def test_a_dataset_that_is_not_there_is_named(bucket, tmp_path):
    with pytest.raises(InputError, match="expected files of ds000999; found none"):
        fetch(bucket, tmp_path, "ds000999")


def test_a_disk_that_is_too_small_is_told_before_anything_comes(bucket, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"data: expected 3\.0 MB of free space; found 1\.0 MB"):
        fetch(bucket, tmp_path / "data", everything=True)
    assert len(bucket.asked) == 1
    assert fetch(bucket, tmp_path / "data") == 0  # the small files fit


def test_a_folder_that_cannot_be_written_is_named(bucket, tmp_path):
    (tmp_path / "sub-CSI1").write_text("a file where a folder should be")
    with pytest.raises(InputError, match=r"events\.tsv: expected a file that can be written; found"):
        fetch(bucket, tmp_path)
    with pytest.raises(InputError, match=r"sub-CSI1: expected a folder to download into; found a file"):
        fetch(bucket, tmp_path / "sub-CSI1")


def test_proxies_of_the_environment_are_not_asked_for_this_machine(bucket, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert fetch(bucket, tmp_path) == 0
    assert open_session("https://s3.amazonaws.com/openneuro.org").trust_env


def test_no_password_of_this_machine_is_sent(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    session = open_session("https://s3.amazonaws.com/openneuro.org")
    request = session.prepare_request(requests.Request("GET", "https://s3.amazonaws.com/openneuro.org/a"))
    assert "Authorization" not in request.headers


# ------------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("name", list(DATASETS))
def test_without_an_open_mirror_the_answer_is_the_terms_and_where_to_ask(name, capsys):
    card = DATASETS[name].card
    assert card.openneuro or card.source
    if card.openneuro:
        assert main(["fetch", name]) == 2
        assert "`--data-dir`: expected the folder to download into" in capsys.readouterr().err
        return
    assert main(["fetch", name, "--data-dir", "nowhere"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(
        f"bds fetch: {name}: expected a dataset with an open mirror; found none. {card.terms}"
    )
    assert line.endswith(f"({card.source})")
    assert not Path("nowhere").exists()


def test_an_unknown_dataset_names_the_nearest(capsys):
    assert main(["fetch", "bold500", "--data-dir", "nowhere"]) == 2
    assert "did you mean 'bold5000'?" in capsys.readouterr().err


def test_bold5000_comes_as_a_design_that_its_loader_reads(tmp_path, capsys):
    write_bold5000(tmp_path / "release", images=False)
    with serve(Bucket()) as bucket:
        for path, content in files_below(tmp_path / "release").items():
            if "GLMbetas" not in path and "brainmask" not in path and "imgnames" not in path:
                bucket.objects[f"ds001499/{path}"] = content
        words = ["fetch", "bold5000", "--data-dir", str(tmp_path / "data"), "--participant-label", "sub-CSI1"]
        assert main([*words, "--bucket", f"{bucket.address}/"]) == 0
    assert len(DATASETS["bold5000"].design(tmp_path / "data", "CSI1")) == 96
    assert [p.name for p in (tmp_path / "data").rglob("*mask*")] == ["sub-CSI1_mask-LHPPA.nii.gz"]


def test_things_fmri_comes_as_tables_that_its_loader_reads(tmp_path):
    """The tables of figshare and of the mirror are the same under other names."""
    write_things(tmp_path / "release", images=False)
    one = DATASETS["things-fmri"].open(tmp_path / "release", "01", tmp_path / "one")
    stem = "derivatives/ICA-betas/sub-01/voxel-metadata/sub-01_task-things"
    names = {
        "StimulusMetadata.csv": "stimulus-metadata.tsv",
        "VoxelMetadata.csv": "voxel-metadata.tsv",
        "ResponseData.h5": "voxel-wise-responses.h5",
    }
    with serve(Bucket()) as bucket:
        for old, new in names.items():
            content = (tmp_path / "release" / "betas_csv" / f"sub-01_{old}").read_bytes()
            bucket.objects[f"ds004192/{stem}_{new}"] = content
        bucket.objects["ds004192/sub-01/ses-things01/func/sub-01_bold.nii.gz"] = BIG
        assert fetch(bucket, tmp_path / "data", "things-fmri") == 0
    assert DATASETS["things-fmri"].subjects(tmp_path / "data") == ["01"]
    other = DATASETS["things-fmri"].open(tmp_path / "data", "01", tmp_path / "other")
    assert list(other.stimulus_ids) == list(one.stimulus_ids)
    (mask,) = (tmp_path / "release" / "brainmasks").iterdir()
    other = DATASETS["things-fmri"].open(tmp_path / "data", "01", tmp_path / "other", mask=str(mask))
    np.testing.assert_array_equal(other.read(slice(None)), one.read(slice(None)))


def test_files_of_no_subject_are_told_from_those_of_one():
    def whose(path: str) -> str:
        return RemoteFile(relative_path(f"ds000001/{path}", "ds000001"), 1, "").subject

    assert whose("README") == ""
    assert whose("sub-01/anat/sub-01_T1w.nii.gz") == "01"
    assert whose("derivatives/fmriprep/sub-02.html") == "02"
    assert whose("derivatives/some-sub-study/a.tsv") == ""
