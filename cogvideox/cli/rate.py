"""`cogvideox rate VERB STUDY`: plan a blind study, invite raters, serve the page, and show the results."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.cli.common.arguments import Parser, nearest
from cogvideox.errors import UserError

if TYPE_CHECKING:
    from cogvideox.serving.run import Address

KEY_VARIABLE = "COGVIDEOX_ADMIN_KEY"
PORT = 8765


def run(arguments: list[str]) -> None:
    """Run a verb of `cogvideox rate`."""
    run_verb("rate", "STUDY", VERBS, "STUDY is the folder of a study.", arguments)


def run_verb(
    command: str,
    operand: str,
    verbs: dict[str, tuple[Callable[[list[str]], None], str]],
    note: str,
    arguments: list[str],
) -> None:
    """Run a verb of a command, or print its verbs."""
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        summaries = "\n".join(f"  {name:<9}{summary}" for name, (_, summary) in verbs.items())
        print(f"usage: cogvideox {command} VERB {operand} [options]\n\n{summaries}\n\n{note}")
        return
    if verb not in verbs:
        raise UserError(f"unknown verb {verb!r}{nearest(verb, verbs)}; available: {', '.join(verbs)}")
    verbs[verb][0](arguments[1:])


def plan(arguments: list[str]) -> None:
    """Plan a study: copy the videos without traces of their origin, and fix the protocol."""
    p = _parser("plan", "STUDY NAME=FOLDER ...", "Plan a study of the videos of one or more models.")
    folders = "name of a model and folder of its videos, each with its prompt in a .txt or .json file beside it"
    p.add_argument("models", nargs="*", metavar="NAME=FOLDER", help=folders)
    modes = "single: rate each video by the paper's criteria; pair: compare the videos of two models (default: single)"
    p.add_argument("--mode", choices=("single", "pair"), default="single", help=modes)
    p.add_argument("--title", default="Video study", help="title on the page; without names of models")
    questions = "questions about pairs, separated by commas (default: sensory,instruction,physics,cover,overall)"
    p.add_argument("--questions", metavar="LIST", help=questions)
    p.add_argument("--raters", type=int, default=8, metavar="N", help="planned number of raters (default: 8)")
    per_rater = "number of items of each rater (default: all)"
    p.add_argument("--items-per-rater", type=int, default=0, metavar="N", help=per_rater)
    p.add_argument(
        "--max-prompts", type=int, default=0, metavar="N", help="number of prompts, at random (default: all)"
    )
    gold = "gold items (damaged videos) as a fraction of the prompts (default: 0.06)"
    p.add_argument("--gold", type=float, default=0.06, metavar="X", help=gold)
    p.add_argument("--repeats", type=float, default=0.1, metavar="X", help="fraction of repeated items (default: 0.1)")
    p.add_argument("--no-training", action="store_true", help="without the 12 explained items at the start")
    rule = "when the study ends, recorded in the protocol"
    p.add_argument("--stop-rule", metavar="TEXT", help=rule)
    p.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the order of items (default: 0)")
    options = p.parse(arguments)
    folder = _folder(options, "plan")
    if not options.models:
        raise UserError("rate plan needs NAME=FOLDER for each model")
    models: dict[str, Path] = {}
    for entry in options.models:
        name, separator, path = entry.partition("=")
        if not (name and separator and path):
            raise UserError(f"{entry!r} must be NAME=FOLDER: the name of a model and the folder of its videos")
        if name in models:
            raise UserError(f"the model {name} is named twice: give each folder a name of its own")
        models[name] = Path(path)
    if options.questions is not None and options.mode == "single":
        raise UserError("--questions is for pairs: add --mode pair")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed} must be 0 or more")

    from cogvideox.evaluation.human.study.plan import QUESTIONS, PlanSettings, plan_study
    from cogvideox.evaluation.human.study.protocol import Study

    settings = PlanSettings(
        mode=options.mode,
        title=options.title,
        questions=tuple(options.questions.split(",")) if options.questions else QUESTIONS,
        gold_fraction=options.gold,
        repeat_fraction=options.repeats,
        items_per_rater=options.items_per_rater,
        num_raters=options.raters,
        training=not options.no_training,
        max_prompts=options.max_prompts,
        stop_rule=options.stop_rule or Study.stop_rule,
        seed=options.seed,
    )
    study = plan_study(models, folder, settings)
    kinds = {kind: len(study.items_of(kind)) for kind in ("training", "normal", "gold")}
    print(", ".join(f"{number} {kind} items" for kind, number in kinds.items()))
    print(f"protocol {study.hash}")
    print(f"next: `cogvideox rate invite {folder} NAME ...` and `cogvideox rate serve {folder}`")


def invite(arguments: list[str]) -> None:
    """Print an invitation link for each person."""
    p = _parser("invite", "STUDY NAME ...", "Print an invitation link for each person. Links are shown once.")
    add_invite_options(p)
    options = p.parse(arguments)
    folder = _folder(options, "invite")
    from cogvideox.evaluation.human.study.protocol import read_study

    read_study(folder)
    print_invitations(folder, options)


def revoke(arguments: list[str]) -> None:
    """Revoke the invitation of a person; their votes stay."""
    p = _parser("revoke", "STUDY NAME", "Revoke the invitation of a person. Votes that were cast stay.")
    p.add_argument("name", nargs="?", metavar="NAME", help="name or id")
    options = p.parse(arguments)
    revoke_invitation(_folder(options, "revoke"), options.name)


def serve(arguments: list[str]) -> None:
    """Serve the rating page."""
    p = _parser("serve", "STUDY", "Serve the rating page until Ctrl-C. /admin shows the progress.")
    add_address_options(p)
    options = p.parse(arguments)
    folder = _folder(options, "serve")
    address = read_address(options)
    from cogvideox.serving.rate.app import rating_app
    from cogvideox.serving.run import serve as serve_app

    app = rating_app(folder, address)
    print(f"raters open their invitation links; progress: {address.url}/admin", flush=True)
    serve_app(app, address)


def results(arguments: list[str]) -> None:
    """Print the results of a study."""
    p = _parser("results", "STUDY", "Print scores or strengths with intervals, agreement, and figures of each rater.")
    options = p.parse(arguments)
    folder = _folder(options, "results")
    from cogvideox.evaluation.human.results import compute_results, format_results
    from cogvideox.evaluation.human.study.protocol import RATINGS, read_key, read_study
    from cogvideox.evaluation.human.study.store import RatingStore

    study = read_study(folder)
    store = RatingStore(folder / RATINGS, study.hash, read_only=True)
    votes, closed = store.votes(), store.is_closed()
    store.close()
    names = {code: entry["name"] for code, entry in read_key(folder, study).items()} if closed else {}
    names = names or {code: code for code in study.models}
    print(format_results(compute_results(study, votes), study, names))
    if not closed:
        print(f"models are codes until the study is closed: `cogvideox rate close {folder}`")


def close(arguments: list[str]) -> None:
    """End a study: no more votes, and the results name the models."""
    p = _parser("close", "STUDY", "End a study while its page is not served: no more votes, results name the models.")
    folder = _folder(p.parse(arguments), "close")
    from cogvideox.evaluation.human.study.protocol import RATINGS, read_study
    from cogvideox.evaluation.human.study.store import RatingStore

    store = RatingStore(folder / RATINGS, read_study(folder).hash)
    if not store.is_closed():
        store.append("close", "")
    store.close()
    print(f"{folder} is closed")


def export(arguments: list[str]) -> None:
    """Export all events as JSON lines."""
    p = _parser("export", "STUDY FILE", "Export all events as JSON lines, each with the hash of the protocol.")
    p.add_argument("file", nargs="?", type=Path, metavar="FILE", help=".jsonl file to write")
    options = p.parse(arguments)
    folder = _folder(options, "export")
    if options.file is None:
        raise UserError("rate export needs FILE, a .jsonl file to write")
    from cogvideox.evaluation.human.study.protocol import RATINGS, read_study
    from cogvideox.evaluation.human.study.store import RatingStore, export_events

    study = read_study(folder)
    store = RatingStore(folder / RATINGS, study.hash, read_only=True)
    print(f"{options.file}: {export_events(store, study.hash, options.file)} events")
    store.close()


VERBS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "plan": (plan, "plan a study: blind copies of the videos, a fixed protocol"),
    "invite": (invite, "print an invitation link for each person"),
    "revoke": (revoke, "revoke an invitation"),
    "serve": (serve, "serve the rating page"),
    "results": (results, "print the results"),
    "close": (close, "end the study, and name the models in the results"),
    "export": (export, "export all events as JSON lines"),
}


def add_address_options(p: Parser) -> None:
    """Add the options of `serve`."""
    host = f"address to listen on (default: 127.0.0.1); others need an administrator's key in {KEY_VARIABLE}"
    p.add_argument("--host", default="127.0.0.1", help=host)
    p.add_argument("--port", type=int, default=PORT, metavar="N", help=f"port (default: {PORT})")


def read_address(options: Any) -> "Address":
    """Return the address of a server. Raises UserError if the extra `serve` is missing, or a key."""
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise UserError("pages need FastAPI and uvicorn: pip install 'cogvideox[serve]'")
    from cogvideox.serving.run import Address

    try:
        return Address(options.host, options.port, os.environ.get(KEY_VARIABLE, ""))
    except UserError as error:
        raise UserError(f"{error}, in the environment variable {KEY_VARIABLE}") from None


def add_invite_options(p: Parser) -> None:
    """Add the options of `invite`."""
    p.add_argument("names", nargs="*", metavar="NAME", help="names of the people, for you; others see ids")
    url = f"address of the server as people reach it (default: http://127.0.0.1:{PORT})"
    p.add_argument("--url", default=f"http://127.0.0.1:{PORT}", metavar="URL", help=url)


def print_invitations(folder: Path, options: Any) -> None:
    """Invite people and print their links."""
    if not options.names:
        raise UserError("invite needs NAME, the name of one person or more")
    from cogvideox.serving.invites import Invites

    for person, secret in Invites(folder).invite(options.names):
        print(f"{person.name} ({person.id}): {options.url.rstrip('/')}/i/{secret}")


def revoke_invitation(folder: Path, name: str | None) -> None:
    """Revoke a person's links."""
    if not name:
        raise UserError("revoke needs NAME, the name or id of a person")
    from cogvideox.serving.invites import Invites

    print(f"{Invites(folder).revoke(name)} invitation of {name} revoked")


def _parser(verb: str, operands: str, description: str) -> Parser:
    p = Parser(f"rate {verb}", operands, description)
    p.add_argument("study", nargs="?", type=Path, metavar="STUDY", help="folder of the study")
    return p


def _folder(options: Any, verb: str) -> Path:
    if options.study is None:
        raise UserError(f"rate {verb} needs STUDY, the folder of a study")
    return options.study
