"""`cogvideox annotate VERB OUT`: serve the annotation page of a curation, invite people, learn from the answers."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cogvideox.cli.common.arguments import Parser
from cogvideox.cli.rate import (
    add_address_options,
    add_invite_options,
    print_invitations,
    read_address,
    revoke_invitation,
    run_verb,
)
from cogvideox.errors import UserError


def run(arguments: list[str]) -> None:
    """Run a verb of `cogvideox annotate`."""
    note = "OUT is the output folder of a curation. `cogvideox labels import` and `export` exchange annotations."
    run_verb("annotate", "OUT", VERBS, note, arguments)


def serve(arguments: list[str]) -> None:
    """Serve the annotation page."""
    p = _parser("serve", "OUT", "Serve the annotation page until Ctrl-C. /admin shows pace and agreement.")
    add_address_options(p)
    p.add_argument("--raw", type=Path, metavar="RAW", help="the raw files, if they were moved since `curate`")
    overlap = "fraction of the clips that two people annotate (default: 0.1)"
    p.add_argument("--overlap", type=float, default=0.1, metavar="X", help=overlap)
    gold = "fraction of gold items, which `labels import` adds with kind=gold (default: 0.05)"
    p.add_argument("--gold", type=float, default=0.05, metavar="X", help=gold)
    clusters = "compute N clusters of similar clips, for the feed by cluster"
    p.add_argument("--clusters", type=int, metavar="N", help=clusters)
    p.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the order of clips (default: 0)")
    learn = "train the label classifiers again after N new answers, and show uncertain and disagreeing clips first"
    p.add_argument("--learn", type=int, metavar="N", help=learn)
    options = p.parse(arguments)
    output = _output(options, "serve")
    if options.learn is not None and options.learn < 1:
        raise UserError(f"--learn {options.learn} must be 1 or more")
    address = read_address(options)
    from cogvideox.serving.annotate.app import annotation_app
    from cogvideox.serving.annotate.feeds import FeedSettings
    from cogvideox.serving.annotate.session import AnnotationSession
    from cogvideox.serving.run import serve as serve_app

    settings = FeedSettings(options.overlap, options.gold, options.seed)
    learner = Learner(output, options.learn) if options.learn else None
    session = AnnotationSession(
        output,
        options.raw,
        settings,
        _clusters(output, options.clusters),
        on_annotation=learner.count if learner else None,
    )
    print(f"annotators open their invitation links; progress: {address.url}/admin", flush=True)
    try:
        serve_app(annotation_app(session, address), address)
    finally:
        if learner is not None:
            learner.stop()


class Learner:
    """Starts `annotate learn` in a process of its own after every `interval` new answers."""

    def __init__(self, output: Path, interval: int) -> None:
        self.output, self.interval = output, interval
        self._process: subprocess.Popen | None = None
        self._last: int | None = None

    def count(self, number: int) -> None:
        """Note the number of answers, and start a round if enough are new and none is running."""
        self._last = number - 1 if self._last is None else self._last
        if number - self._last < self.interval or (self._process is not None and self._process.poll() is None):
            return
        self._last = number
        command = [sys.executable, "-m", "cogvideox", "annotate", "learn", str(self.output)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        """End a running round. Its files are written atomically."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)


def learn(arguments: list[str]) -> None:
    """Train the label classifiers on the answers, and predict all clips."""
    text = "Train the label classifiers on the answers so far, and predict all clips, for the feeds of the page."
    p = _parser("learn", "OUT", f"{text} It can run while people annotate.")
    p.add_argument(
        "--watch", type=float, metavar="SECONDS", help="repeat after new answers, every SECONDS, until Ctrl-C"
    )
    p.add_argument("--seed", type=int, default=0, metavar="N", help="training seed (default: 0)")
    options = p.parse(arguments)
    output = _output(options, "learn")
    if options.watch is not None and options.watch <= 0:
        raise UserError(f"--watch {options.watch:g} must be above 0")
    if options.watch is None:
        _learn_once(output, options.seed)
        return
    learned = -1
    while True:
        last = _last_event(output)
        if last != learned:
            try:
                _learn_once(output, options.seed)
            except UserError as error:  # such as too few answers yet
                print(f"waiting for more answers: {error}", flush=True)
            learned = last
        time.sleep(options.watch)


def _learn_once(output: Path, seed: int) -> None:
    """Train and predict."""
    from cogvideox.cli.curation.labels import PREDICTIONS, TEST_FRACTION
    from cogvideox.curation.labels.classifier import TrainSettings, train
    from cogvideox.curation.labels.features import truth_columns
    from cogvideox.curation.labels.predictions import write_predictions
    from cogvideox.curation.labels.report import is_test_source
    from cogvideox.curation.manifest import read_manifest

    table, majority = read_manifest(output), _majority(output)
    truth = truth_columns(table["id"].to_pylist(), majority)
    test = [is_test_source(source, TEST_FRACTION) for source in table["source"].to_pylist()]
    for values in truth.values():
        values[test] = float("nan")  # held out, as in `labels train`
    model = train(table, truth, TrainSettings(seed=seed))
    write_predictions(table["id"].to_pylist(), model.predict(table), model.thresholds, output / PREDICTIONS)
    print(f"{len(majority)} annotated clips; predicted {', '.join(model.heads)}: {output / PREDICTIONS}", flush=True)


def progress(arguments: list[str]) -> None:
    """Print pace, agreement and accuracy of annotators."""
    p = _parser("progress", "OUT", "Print agreement by label, and pace and accuracy of each annotator.")
    output = _output(p.parse(arguments), "progress")
    from cogvideox.curation.annotations.store import AnnotationStore
    from cogvideox.serving.annotate.progress import compute_progress, format_progress
    from cogvideox.serving.invites import Invites

    with AnnotationStore(_store(output), read_only=True) as store:
        names = {person.id: person.name for person in Invites(output).people()}
        print(format_progress(compute_progress(store), names))


def invite(arguments: list[str]) -> None:
    """Print an invitation link for each person."""
    p = _parser("invite", "OUT NAME ...", "Print an invitation link for each person. Links are shown once.")
    add_invite_options(p)
    options = p.parse(arguments)
    print_invitations(_output(options, "invite"), options)


def revoke(arguments: list[str]) -> None:
    """Revoke the invitation of a person."""
    p = _parser("revoke", "OUT NAME", "Revoke the invitation of a person. The answers stay.")
    p.add_argument("name", nargs="?", metavar="NAME", help="name or id")
    options = p.parse(arguments)
    revoke_invitation(_output(options, "revoke"), options.name)


VERBS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "serve": (serve, "serve the annotation page"),
    "invite": (invite, "print an invitation link for each person"),
    "revoke": (revoke, "revoke an invitation"),
    "progress": (progress, "print pace, agreement and accuracy"),
    "learn": (learn, "train the classifiers on the answers, and predict all clips"),
}


def _parser(verb: str, operands: str, description: str) -> Parser:
    p = Parser(f"annotate {verb}", operands, description)
    p.add_argument("output", nargs="?", type=Path, metavar="OUT", help="output folder of `cogvideox curate`")
    return p


def _output(options: Any, verb: str) -> Path:
    if options.output is None or not options.output.is_dir():
        problem = "" if options.output is None else f"{options.output} is not a folder: "
        raise UserError(f"{problem}annotate {verb} needs OUT, the output folder of `cogvideox curate`")
    return options.output


def _store(output: Path) -> Path:
    from cogvideox.curation.annotations.store import STORE

    if not (output / STORE).is_file():
        raise UserError(f"{output} has no annotations yet: `cogvideox annotate serve {output}` collects them")
    return output / STORE


def _majority(output: Path) -> dict[str, dict[str, bool | None]]:
    from cogvideox.curation.annotations.store import AnnotationStore

    with AnnotationStore(_store(output), read_only=True) as store:
        return store.majority()


def _last_event(output: Path) -> int:
    """Return the number of the last event, which also grows with changed and undone answers; 0 without a store."""
    from cogvideox.curation.annotations.store import STORE, AnnotationStore

    if not (output / STORE).is_file():
        return 0
    with AnnotationStore(output / STORE, read_only=True) as store:
        return max((event.number for event in store.events()), default=0)


def _clusters(output: Path, number: int | None) -> list[str]:
    """Return the cluster of each clip that can be annotated."""
    if number is None:
        return []
    from cogvideox.curation.clusters import Clustering, cluster_names
    from cogvideox.curation.manifest import read_manifest

    names = cluster_names(output, Clustering(number))
    table = read_manifest(output, ("index", "start"))
    rows = zip(names.tolist(), table["index"].to_pylist(), table["start"].to_pylist())
    return [name for name, index, start in rows if index is not None and start is not None]
