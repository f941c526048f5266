"""`cogvideox labels VERB OUT`: train, evaluate and apply label classifiers, import and export annotations."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.cli.common.arguments import Parser, nearest
from cogvideox.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTIONS = "labels.parquet"
TEST_FRACTION = 0.1
_NEEDS_OUT = "labels {verb} needs OUT, the output folder of `cogvideox curate`"


def run(arguments: list[str]) -> None:
    """Run a verb of `cogvideox labels`."""
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        summaries = "\n".join(f"  {name:<8}{summary}" for name, (_, summary) in VERBS.items())
        print(f"usage: cogvideox labels VERB OUT [options]\n\n{summaries}\n\nOUT is the output folder of a curation.")
        return
    if verb not in VERBS:
        raise UserError(f"unknown verb {verb!r}{nearest(verb, VERBS)}; available: {', '.join(VERBS)}")
    VERBS[verb][0](arguments[1:])


def train(arguments: list[str]) -> None:
    """Train a label classifier on the annotations of a curation, and evaluate it on the held-out sources."""
    p = _parser("train", "OUT", "Train classifiers of the six negative labels on the annotated clips of a curation.")
    p.add_argument("--model", type=Path, metavar="FILE", help="file to write; with --vlm, a folder (default: in OUT)")
    kind = "signals: trees on the signals; embedding: a linear head on the signals and the `tags` embedding"
    p.add_argument("--kind", choices=("signals", "embedding"), help=f"{kind} (default: signals)")
    vlm = p.add_argument_group("video-language model")
    vlm.add_argument("--vlm", type=Path, metavar="FOLDER", help="fine-tune this model with LoRA; needs --raw")
    answer = "head: a linear layer for all labels; chat: a yes/no answer per label (default: head)"
    vlm.add_argument("--answer", choices=("head", "chat"), help=answer)
    vlm.add_argument("--raw", type=Path, metavar="RAW", help="the raw files")
    vlm.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="settings, such as num_steps=500")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="training seed (default: 0)")
    _add_test_fraction(p)
    options = p.parse(arguments)
    output = _output(options, "train")
    if options.vlm is None:
        if options.set or options.raw is not None or options.answer is not None:
            raise UserError("--answer, --raw and --set are settings of a video-language model: add --vlm")
    elif options.kind is not None:
        raise UserError("--kind is for classifiers on signals: remove it, or --vlm")
    options.kind, options.answer = options.kind or "signals", options.answer or "head"

    from cogvideox.curation.labels.classifier import TrainSettings
    from cogvideox.curation.labels.classifier import train as train_model
    from cogvideox.curation.labels.model_file import MODEL, save_model
    from cogvideox.curation.labels.report import Predictions, build_report, format_report, is_test_source

    options.test_fraction = TEST_FRACTION if options.test_fraction is None else options.test_fraction
    _check_fraction(options.test_fraction)
    table, truth = _annotated(output)
    test = [is_test_source(source, options.test_fraction) for source in table["source"].to_pylist()]
    if options.vlm is not None:
        from cogvideox.cli.curation.vlm_labels import train_vlm

        train_vlm(options, table, _only(truth, [not is_test for is_test in test]))
        return
    settings = TrainSettings(kind=options.kind, seed=options.seed)
    model = train_model(table, _only(truth, [not is_test for is_test in test]), settings)
    model = replace(model, test_fraction=options.test_fraction)
    path = options.model or output / MODEL
    save_model(model, path)
    for name, head in model.heads.items():
        print(f"{name:<12} trained on {head.num_positive} clips with the label and {head.num_negative} without")
    if absent := [name for name in truth if name not in model.heads]:
        print(f"too few annotations for: {', '.join(absent)}")
    if any(test):
        reports = build_report([Predictions(options.kind, model.predict(table), model.thresholds)], _only(truth, test))
        if reports:
            print(f"\non the annotated clips of the held-out sources:\n\n{format_report(reports)}\n")
    print(path)


def report(arguments: list[str]) -> None:
    """Compare label classifiers on annotated clips."""
    p = _parser("report", "OUT", "Compare label classifiers on held-out annotated clips.")
    model = "model to evaluate; may be repeated (default: OUT/labels.safetensors)"
    p.add_argument("--model", type=Path, action="append", metavar="FILE", help=model)
    predictions = (
        "table of probabilities written by `labels predict`; may be repeated. Whether the model was trained on test "
        "clips is not checked"
    )
    p.add_argument("--predictions", type=Path, action="append", default=[], metavar="FILE", help=predictions)
    _add_test_fraction(p)
    p.add_argument("--all", action="store_true", help="evaluate on all annotated clips, including training clips")
    p.add_argument("--html", action="store_true", help="also write OUT/labels.html, with the largest errors")
    p.add_argument("--raw", type=Path, metavar="RAW", help="the raw files, for thumbnails in the page")
    options = p.parse(arguments)
    output = _output(options, "report")
    if options.raw is not None and not options.html:
        raise UserError("--raw is for thumbnails in the page: add --html")
    if options.all and options.test_fraction is not None:
        raise UserError("--all evaluates on all annotated clips: remove it, or --test-fraction")
    options.test_fraction = TEST_FRACTION if options.test_fraction is None else options.test_fraction
    _check_fraction(options.test_fraction)

    from cogvideox.curation.labels import report_page
    from cogvideox.curation.labels.model_file import MODEL, load_model
    from cogvideox.curation.labels.report import Predictions, build_report, format_report, is_test_source

    table, truth = _annotated(output)
    paths = options.model or ([] if options.predictions else [output / MODEL])
    compared = []
    for path in paths:
        loaded = load_model(path)
        if not options.all and options.test_fraction > loaded.test_fraction:
            raise UserError(
                f"{path} was trained on all but {loaded.test_fraction:g} of the sources: pass --test-fraction "
                f"{loaded.test_fraction:g}, or --all to include training clips"
            )
        compared.append(Predictions(_name(path, paths, loaded.kind), loaded.predict(table), loaded.thresholds))
    compared += [_read_predictions(path, table) for path in options.predictions]
    names, files = [each.name for each in compared], [*paths, *options.predictions]
    if len(set(files)) < len(files):
        raise UserError("the same model or table is passed twice: remove one")
    compared = [
        replace(each, name=str(file)) if names.count(each.name) > 1 else each for each, file in zip(compared, files)
    ]
    if not options.all:
        test = [is_test_source(source, options.test_fraction) for source in table["source"].to_pylist()]
        truth = _only(truth, test)
    sources = table["source"].to_pylist()
    slices = {
        "folder": [source.rpartition("/")[0] or "." for source in sources],
        "height": [f"{height} pixels" for height in table["height"].to_pylist()],
    }
    reports = build_report(compared, truth, slices)
    if not reports:
        raise UserError("no annotated clip is in the test split: annotate more clips, or add --all")
    print(format_report(reports))
    if options.html:
        report_page.write_page(reports, table, options.raw, output / report_page.PAGE)
        print(output / report_page.PAGE)


def predict(arguments: list[str]) -> None:
    """Write the label probabilities of all clips to a table."""
    p = _parser("predict", "OUT", "Write the label probabilities of all clips of a curation to a table.")
    p.add_argument("--model", type=Path, metavar="FILE", help="model to apply (default: OUT/labels.safetensors)")
    p.add_argument("-o", "--output", dest="file", type=Path, metavar="FILE", help=f"table (default: OUT/{PREDICTIONS})")
    vlm = p.add_argument_group("video-language models")
    vlm.add_argument("--vlm", type=Path, metavar="FOLDER", help="apply a filter written by `labels train --vlm`")
    endpoint = "zero-shot labels from a model behind an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1"
    vlm.add_argument("--endpoint", metavar="URL", help=endpoint)
    vlm.add_argument("--endpoint-model", default="", metavar="NAME", help="name of the model at the endpoint")
    vlm.add_argument("--key-variable", default="", metavar="NAME", help="environment variable with the endpoint's key")
    vlm.add_argument("--max-cost", type=float, metavar="X", help="budget of all calls, in the currency of the prices")
    vlm.add_argument("--raw", type=Path, metavar="RAW", help="the raw files")
    options = p.parse(arguments)
    output = _output(options, "predict")
    if options.endpoint is None and (options.endpoint_model or options.key_variable or options.max_cost is not None):
        raise UserError("--endpoint-model, --key-variable and --max-cost are for an endpoint: add --endpoint")
    if options.model is not None and (options.vlm is not None or options.endpoint is not None):
        raise UserError("--model is a classifier on signals: remove it, or --vlm and --endpoint")

    import numpy as np

    from cogvideox.curation.labels.model_file import MODEL, load_model
    from cogvideox.curation.labels.predictions import write_predictions
    from cogvideox.curation.manifest import read_manifest

    table = read_manifest(output)
    if options.vlm is not None or options.endpoint is not None:
        from cogvideox.cli.curation.vlm_labels import predict_vlm

        probabilities, thresholds = predict_vlm(options, table, output)
    elif options.raw is not None:
        raise UserError("--raw is for video-language models: add --vlm or --endpoint")
    else:
        model = load_model(options.model or output / MODEL)
        probabilities, thresholds = model.predict(table), model.thresholds
    path = options.file or output / PREDICTIONS
    write_predictions(table["id"].to_pylist(), probabilities, thresholds, path)
    for name, values in probabilities.items():
        known = values[np.isfinite(values)]
        num_predicted = int(np.sum(known > thresholds[name]))
        print(f"{name:<12} {num_predicted:>8,} of {len(known):,} clips above {thresholds[name]:.3f}")
    print(path)


def import_annotations(arguments: list[str]) -> None:
    """Append annotations from files to the annotation store."""
    p = _parser("import", "OUT FILE ...", "Append annotations to OUT/annotations.db. Existing annotations are skipped.")
    formats = "Label Studio JSON export, or a CSV or Parquet table with clip_id, annotator and a column per label"
    p.add_argument("files", nargs="*", type=Path, metavar="FILE", help=formats)
    options = p.parse(arguments)
    output = _output(options, "import")
    if not options.files:
        raise UserError("labels import needs FILE: a Label Studio JSON export, or a CSV or Parquet table")

    from cogvideox.curation.annotations.label_studio import import_tasks
    from cogvideox.curation.annotations.store import STORE, AnnotationStore
    from cogvideox.curation.annotations.tables import import_table

    for path in options.files:
        _check_suffix(path)
    with AnnotationStore(output / STORE, exclusive=True) as store:
        for path in options.files:
            number = (import_tasks if path.suffix == ".json" else import_table)(store, path)
            print(f"{path}: {number} new annotations")


def export_annotations(arguments: list[str]) -> None:
    """Export annotations, or tasks for Label Studio."""
    p = _parser("export", "OUT FILE", "Export the annotations; with a .json FILE, all clips as Label Studio tasks.")
    p.add_argument("file", nargs="?", type=Path, metavar="FILE", help=".json, .csv or .parquet")
    prefix = "prefix of the path of each raw file in tasks, such as /data/local-files/?d=raw/"
    p.add_argument("--url-prefix", default="", metavar="URL", help=prefix)
    p.add_argument("--config", action="store_true", help="print the labeling interface of a Label Studio project")
    options = p.parse(arguments)

    from cogvideox.curation.annotations.label_studio import LABELING_CONFIG, export_tasks
    from cogvideox.curation.annotations.store import STORE, AnnotationStore
    from cogvideox.curation.annotations.tables import export_table
    from cogvideox.curation.manifest import read_manifest

    if options.config:
        print(LABELING_CONFIG)
        return
    output = _output(options, "export")
    if options.file is None:
        raise UserError("labels export needs FILE: .json for Label Studio, or .csv or .parquet")
    _check_suffix(options.file)
    with AnnotationStore(output / STORE, read_only=(output / STORE).is_file()) as store:
        if options.file.suffix != ".json":
            if options.url_prefix:
                raise UserError("--url-prefix is for Label Studio tasks: write a .json file")
            print(f"{options.file}: {export_table(store, options.file)} annotations")
            return
        table = read_manifest(output)
        rows = zip(*(table[name].to_pylist() for name in ("id", "source", "clip_file", "start", "end", "index")))
        videos = {
            clip_id: options.url_prefix + (clip_file or f"{source}#t={start:.3f},{end:.3f}")
            for clip_id, source, clip_file, start, end, index in rows
            if index is not None
        }
        print(f"{options.file}: {export_tasks(store, videos, options.file)} tasks")


VERBS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "train": (train, "train label classifiers on the annotations"),
    "report": (report, "compare label classifiers on annotated clips"),
    "predict": (predict, "write the label probabilities of all clips to a table"),
    "import": (import_annotations, "append annotations from Label Studio, CSV or Parquet"),
    "export": (export_annotations, "export annotations, or tasks for Label Studio"),
}


def _parser(verb: str, operands: str, description: str) -> Parser:
    p = Parser(f"labels {verb}", operands, description)
    p.add_argument("output", nargs="?", type=Path, metavar="OUT", help="output folder of `cogvideox curate`")
    return p


def _output(options: Any, verb: str) -> Path:
    if options.output is None:
        raise UserError(_NEEDS_OUT.format(verb=verb))
    if not options.output.is_dir():
        raise UserError(f"{options.output} is not a folder: {_NEEDS_OUT.format(verb=verb)}")
    return options.output


def _add_test_fraction(p: Parser) -> None:
    text = f"fraction of the sources that is held out for testing (default: {TEST_FRACTION}, as in the paper)"
    p.add_argument("--test-fraction", type=float, metavar="X", help=text)


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise UserError(f"--test-fraction {fraction:g} must be 0 or more and below 1")


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".json", ".csv", ".parquet"):
        raise UserError(f"{path}: annotations are .json (Label Studio), .csv or .parquet files")


def _name(path: Path, paths: list[Path], kind: str) -> str:
    return kind if len(paths) == 1 else path.stem


def _annotated(output: Path) -> "tuple[pa.Table, dict[str, Any]]":
    """Return the manifest, and the ground truth of each label per row: the majority of the annotations."""
    from cogvideox.curation.annotations.store import STORE, AnnotationStore
    from cogvideox.curation.labels.features import truth_columns
    from cogvideox.curation.manifest import read_manifest

    table = read_manifest(output)
    if not (output / STORE).is_file():
        raise UserError(f"{output} has no annotations: add some with `cogvideox labels import {output} FILE`")
    with AnnotationStore(output / STORE, read_only=True) as store:
        majority = store.majority()
    ids = table["id"].to_pylist()
    if not set(ids) & set(majority):
        raise UserError(f"none of the {len(majority)} annotated clips of {output / STORE} is in the manifest")
    return table, truth_columns(ids, majority)


def _only(truth: Mapping[str, Any], rows: list[bool]) -> dict[str, Any]:
    """Return the ground truth restricted to the selected rows; all other rows become NaN (unknown)."""
    import numpy as np

    return {name: np.where(rows, values, np.nan) for name, values in truth.items()}


def _read_predictions(path: Path, table: "pa.Table") -> Any:
    from cogvideox.curation.labels.predictions import read_predictions
    from cogvideox.curation.labels.report import Predictions

    probabilities, thresholds = read_predictions(path, table["id"].to_pylist())
    return Predictions(path.stem, probabilities, thresholds)
