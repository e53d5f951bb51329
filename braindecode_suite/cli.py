"""The command line, ``bds``: thin. Everything heavy is imported inside the commands, so that ``bds --help`` is instant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

DONE, USER_MISTAKE = 0, 2
CATALOGUES = ("datasets", "targets", "encoders", "image-encoders", "decoders", "generators", "workflows")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with exit code 2."""
        self.exit(USER_MISTAKE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def subject_label(text: str) -> str:
    """Return a participant label without its ``sub-`` or ``subj`` prefix.

    Examples
    --------
    >>> subject_label("sub-01"), subject_label("subj02"), subject_label("CSI1")
    ('01', '02', 'CSI1')
    """
    for prefix in ("sub-", "subj-", "subj"):
        if text.startswith(prefix) and len(text) > len(prefix):
            return text.removeprefix(prefix)
    return text


def positive_minutes(text: str) -> float:
    """Return an amount of recording in minutes.

    Examples
    --------
    >>> positive_minutes("7.5")
    7.5
    """
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"expected minutes above 0; found {text!r}")
    return minutes


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    from braindecode_suite import __version__

    parser = Parser(
        prog="bds",
        description="Decode what a person sees from their brain, and say how far to trust it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"braindecode_suite {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    run = commands.add_parser(
        "run",
        help="decode the recordings of some or all participants, or summarise the group",
        allow_abbrev=False,
    )
    run.add_argument(
        "dataset",
        metavar="DATASET",
        help="catalogue name (`bds list datasets`), a folder with a trials.tsv, or a BIDS folder of raw MEG or EEG or with fMRIPrep derivatives",
    )
    run.add_argument("output_dir", metavar="OUTPUT_DIR", type=Path)
    run.add_argument("level", choices=("participant", "group"))
    _participants(run, "subjects, with or without the sub- prefix; all by default")
    run.add_argument("--data-dir", type=Path, help="where the data are; simulated studies are written there")
    run.add_argument("--workflow", help="by default the dataset's own")
    run.add_argument("--config", type=Path, help="YAML file with values that change the preset's")
    run.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one value; may be repeated",
    )
    run.add_argument(
        "--minutes",
        nargs="+",
        default=[],
        type=positive_minutes,
        metavar="M",
        help="score the headline also on the first M minutes of training recordings, e.g. --minutes 10 20 40",
    )
    _computing(run)
    run.add_argument("--work-dir", type=Path, help="scratch folder, OUTPUT_DIR/work by default")
    run.add_argument("--fresh", action="store_true", help="discard what earlier runs left in the work folder")
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    run.add_argument(
        "--reports-only", action="store_true", help="render the reports of results that are there"
    )

    demo = commands.add_parser(
        "demo", help="the main job on a small simulated study, offline", allow_abbrev=False
    )
    demo.add_argument("output_dir", metavar="OUTPUT_DIR", type=Path, nargs="?", default=Path("bds_demo"))
    demo.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    demo.add_argument("--fresh", action="store_true")
    _computing(demo)

    listing = commands.add_parser("list", help="what there is to choose from", allow_abbrev=False)
    listing.add_argument("catalogue", choices=CATALOGUES)
    describe = commands.add_parser("describe", help="one entry of a catalogue", allow_abbrev=False)
    describe.add_argument("name", metavar="NAME")

    check = commands.add_parser(
        "check", help="look at a dataset's files before running anything", allow_abbrev=False
    )
    check.add_argument("dataset", metavar="DATASET")
    check.add_argument("--data-dir", type=Path)
    _participants(check, "whose splits are shown; the first one by default")

    fetch = commands.add_parser(
        "fetch",
        help="download a dataset from its open mirror, or say where to ask for it",
        allow_abbrev=False,
    )
    fetch.add_argument(
        "dataset", metavar="DATASET", help="catalogue name, or an OpenNeuro number such as ds001246"
    )
    fetch.add_argument("--data-dir", type=Path, help="where to; what is there already and right stays")
    _participants(fetch, "only these subjects, and the files that belong to none; all by default")
    fetch.add_argument(
        "--everything", action="store_true", help="raw BOLD too, not only what the loader reads"
    )
    fetch.add_argument("--dry-run", action="store_true", help="list the files and stop")
    fetch.add_argument("--bucket", metavar="URL", help="another address of the bucket")

    doctor = commands.add_parser(
        "doctor", help="what this machine has, and a self-check of ten seconds", allow_abbrev=False
    )
    doctor.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")

    verify = commands.add_parser(
        "verify", help="recompute the figures of a saved model's card from model and data", allow_abbrev=False
    )
    verify.add_argument("model_dir", metavar="MODEL_DIR", type=Path)
    verify.add_argument("--data-dir", type=Path, required=True)
    verify.add_argument("--participant-label", "--participant_label", type=subject_label, metavar="LABEL")
    verify.add_argument("--work-dir", type=Path, help="scratch folder, a temporary one by default")
    verify.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    _streaming(commands)
    return parser


def _streaming(commands: argparse._SubParsersAction[Parser]) -> None:
    stream = commands.add_parser(
        "stream", help="decode a recording while it runs, or replay one", allow_abbrev=False
    )
    stream.add_argument(
        "model_dir", metavar="MODEL_DIR", type=Path, help="a saved model with a stream/ folder"
    )
    stream.add_argument(
        "--source",
        choices=("file", "lsl", "log"),
        default="file",
        help="replay a recording (default), receive Lab Streaming Layer, or run a log again",
    )
    stream.add_argument(
        "--recording",
        type=Path,
        metavar="PATH",
        help="what to replay, relative to --data-dir if given; or the log",
    )
    stream.add_argument("--data-dir", type=Path, help="the BIDS folder of the recording; needed for --parity")
    stream.add_argument(
        "--events", type=Path, metavar="FILE", help="events of the recording, by default its own events.tsv"
    )
    stream.add_argument("--stream", default="", metavar="NAME", help="stream of samples of --source lsl")
    stream.add_argument("--markers", default="", metavar="NAME", help="stream of markers of --source lsl")
    stream.add_argument(
        "--trigger", default="", metavar="CHANNEL", help="channel whose values say when a picture appears"
    )
    stream.add_argument(
        "--trigger-values",
        nargs="+",
        default=[],
        type=int,
        metavar="N",
        help="values that mean a picture; all but 0 by default",
    )
    stream.add_argument(
        "--offset",
        type=float,
        default=0.0,
        metavar="MS",
        help="from the trigger to the picture, as a photodiode shows it",
    )
    stream.add_argument(
        "--bad",
        nargs="+",
        default=[],
        metavar="SENSOR",
        help="sensors to mask, besides those that the recording calls bad",
    )
    stream.add_argument(
        "--speed",
        type=stream_speed,
        default=1.0,
        metavar="X",
        help="of a replay: 1 as recorded (default), 4 four times as fast, max as fast as it can",
    )
    stream.add_argument(
        "--chunk",
        type=int,
        metavar="N",
        help="samples in a chunk of a replay, 25 ms by default; what your acquisition system sends",
    )
    stream.add_argument(
        "--hop",
        type=float,
        metavar="MS",
        help="between two answers; by default the shortest that this machine keeps up with",
    )
    stream.add_argument(
        "--confidence",
        type=float,
        metavar="P",
        help="decide, and stop looking at a picture, at this probability",
    )
    stream.add_argument("--top", type=int, default=5, metavar="K", help="candidates named in an answer")
    stream.add_argument("--seconds", type=float, metavar="S", help="stop after so much of the recording")
    stream.add_argument(
        "--silence",
        type=float,
        default=5.0,
        metavar="S",
        help="without a sample, after which the stream has stopped",
    )
    stream.add_argument(
        "--page", type=int, metavar="PORT", help="show it on http://127.0.0.1:PORT (0: any free port)"
    )
    stream.add_argument(
        "--preview",
        action="store_true",
        help="draw a picture of the latest prediction on the page, by the model's generator",
    )
    stream.add_argument(
        "--log", type=Path, metavar="FILE", help="write everything, a JSON object a line; a new file"
    )
    stream.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    stream.add_argument(
        "--parity",
        action="store_true",
        help="compare with the offline pipeline; exit code 1 where they differ by more than 1e-4",
    )
    stream.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")


def stream_speed(text: str) -> float | None:
    """Return how fast to replay, None for as fast as it can.

    Examples
    --------
    >>> stream_speed("max"), stream_speed("2")
    (None, 2.0)
    """
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, or max; found {text!r}")
    return speed


def _participants(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument(
        "--participant-label",
        "--participant_label",
        nargs="+",
        default=[],
        type=subject_label,
        metavar="LABEL",
        help=text,
    )


def _computing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; further ones count up from it")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 the user's own input, 141 nobody reads on, 1 any other failure."""
    arguments = build_parser().parse_args(argv)
    words = ("bds", *(sys.argv[1:] if argv is None else argv))

    from braindecode_suite.core.errors import InputError

    commands = {
        "run": lambda: _run(arguments, words),
        "demo": lambda: _demo(arguments, words),
        "list": lambda: _list(arguments.catalogue),
        "describe": lambda: _describe(arguments.name),
        "check": lambda: _check(arguments),
        "fetch": lambda: _fetch(arguments),
        "doctor": lambda: _doctor(arguments.device),
        "verify": lambda: _verify(arguments),
        "stream": lambda: _stream(arguments),
    }
    try:
        return commands[arguments.command]()
    except InputError as error:
        print(f"bds {arguments.command}: {error}", file=sys.stderr)
        return USER_MISTAKE
    except BrokenPipeError:  # whoever reads what is printed has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"bds {arguments.command}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace, words: tuple[str, ...]) -> int:
    from braindecode_suite.core.device import resolve_device
    from braindecode_suite.core.errors import InputError
    from braindecode_suite.workflows import WORKFLOWS
    from braindecode_suite.workflows.configuration import load_config
    from braindecode_suite.workflows.group import run_group
    from braindecode_suite.workflows.inputs import find_dataset
    from braindecode_suite.workflows.runner import Run, run_participants

    dataset, data_dir = find_dataset(arguments.dataset, arguments.data_dir)
    name = WORKFLOWS.resolve(arguments.workflow or dataset.card.workflow)
    workflow = WORKFLOWS[name]
    if arguments.level == "group":
        unused = [
            flag
            for flag, value in (
                ("--participant-label", arguments.participant_label),
                ("--config", arguments.config),
                ("--set", arguments.settings),
                ("--minutes", arguments.minutes),
                ("--dry-run", arguments.dry_run),
                ("--reports-only", arguments.reports_only),
            )
            if value
        ]
        if unused:
            raise InputError(
                "group level", expected="no options of the participant level", found=", ".join(unused)
            )
        return run_group(arguments.output_dir, name, workflow.label, arguments.seed)
    minutes = [f"minutes={arguments.minutes}"] if arguments.minutes else []
    preset = dataset.card.preset if name == WORKFLOWS.resolve(dataset.card.workflow) else ""
    run = Run(
        dataset=dataset,
        data_dir=data_dir,
        output_dir=arguments.output_dir,
        work_dir=arguments.work_dir or arguments.output_dir / "work",
        workflow=workflow,
        config=load_config(workflow, preset, arguments.config, [*arguments.settings, *minutes]),
        subjects=tuple(dict.fromkeys(arguments.participant_label)),
        device=resolve_device(arguments.device),
        precision=arguments.precision,
        seed=arguments.seed,
        fresh=arguments.fresh,
        dry_run=arguments.dry_run,
        reports_only=arguments.reports_only,
        progress=sys.stderr.isatty(),
        command=words,
    )
    return run_participants(run)


def _demo(arguments: argparse.Namespace, words: tuple[str, ...]) -> int:
    from braindecode_suite.core.device import resolve_device
    from braindecode_suite.workflows.demo import run_demo

    return run_demo(
        arguments.output_dir,
        settings=arguments.settings,
        device=resolve_device(arguments.device),
        precision=arguments.precision,
        seed=arguments.seed,
        fresh=arguments.fresh,
        progress=sys.stderr.isatty(),
        command=words,
    )


def _list(catalogue: str) -> int:
    from braindecode_suite.workflows.inputs import list_catalogue

    print(list_catalogue(catalogue))
    return DONE


def _describe(name: str) -> int:
    from braindecode_suite.workflows.inputs import describe_entry

    print(describe_entry(name))
    return DONE


def _check(arguments: argparse.Namespace) -> int:
    from braindecode_suite.workflows.check import check_dataset

    return check_dataset(
        arguments.dataset, arguments.data_dir, tuple(dict.fromkeys(arguments.participant_label))
    )


def _fetch(arguments: argparse.Namespace) -> int:
    from braindecode_suite.datasets.openneuro import BUCKET
    from braindecode_suite.workflows.fetch import fetch_dataset

    return fetch_dataset(
        arguments.dataset,
        arguments.data_dir,
        subjects=tuple(dict.fromkeys(arguments.participant_label)),
        everything=arguments.everything,
        dry_run=arguments.dry_run,
        bucket=(arguments.bucket or BUCKET).rstrip("/"),
        progress=sys.stderr.isatty(),
    )


def _doctor(device: str) -> int:
    from braindecode_suite.workflows.doctor import examine

    return examine(device)


def _verify(arguments: argparse.Namespace) -> int:
    from braindecode_suite.core.device import resolve_device
    from braindecode_suite.workflows.verify import verify_model

    return verify_model(
        arguments.model_dir,
        arguments.data_dir,
        subject=arguments.participant_label,
        work_dir=arguments.work_dir,
        device=resolve_device(arguments.device),
    )


def _stream(arguments: argparse.Namespace) -> int:
    from braindecode_suite.core.device import resolve_device
    from braindecode_suite.workflows.stream import StreamJob, stream

    facts = {key: value for key, value in vars(arguments).items() if key != "command"}
    facts |= {
        "offset": arguments.offset / 1000,
        "trigger_values": tuple(arguments.trigger_values),
        "bad": tuple(arguments.bad),
        "device": resolve_device(arguments.device),
    }
    return stream(StreamJob(**facts))
