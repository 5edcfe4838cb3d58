"""The command line: arguments only. Each command calls one function of the same name.

Messages go to stderr, results to stdout; `entry` turns errors into exit codes.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.errors import show
from headstart.flags import (
    AugmentList,
    Backbone,
    Budget,
    Case,
    Cut,
    Data,
    Device,
    Epochs,
    FitImage,
    FromScratch,
    Group,
    HeadKind,
    Images,
    LargeAbove,
    Metric,
    Model,
    NoReport,
    Out,
    Prevalence,
    RefitAll,
    Relabel,
    Resume,
    Seed,
    Size,
    SmallBelow,
    Table,
    TensorBoard,
    Test,
    Weights,
)
from headstart.settings import DEFAULT_BACKBONE, FitSettings, fit_settings

app = typer.Typer(
    name="headstart",
    help="Adapt a CNN that was pre-trained on ImageNet to a folder of your own images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _default(name: str) -> Any:
    return FitSettings.model_fields[name].default


@app.command()
def fit(
    data: Data = None,
    table: Table = None,
    group: Group = None,
    out: Out = None,
    test: Test = None,
    metric: Metric = "auto",
    case: Case = None,
    cut: Cut = None,
    from_scratch: FromScratch = False,
    backbone: Backbone = DEFAULT_BACKBONE,
    weights: Weights = None,
    size: Size = None,
    fit_image: FitImage = None,
    head: HeadKind = "linear",
    epochs: Epochs = None,
    augment: AugmentList = "auto",
    budget: Budget = None,
    prevalence: Prevalence = None,
    relabel: Relabel = None,
    small_below: SmallBelow = _default("small_below"),
    large_above: LargeAbove = _default("large_above"),
    refit_all: RefitAll = False,
    seed: Seed = 0,
    resume: Resume = False,
    tensorboard: TensorBoard = False,
    no_report: NoReport = False,
    device: Device = "auto",
) -> None:
    """Adapt the network to your images: model, evaluation, report."""
    from headstart import pipeline

    values = {key: value for key, value in locals().items() if key in FitSettings.model_fields}
    outcome = pipeline.fit(fit_settings(values | {"report": not no_report}))
    _print_fit(outcome.folder, outcome.already_done)


@app.command()
def plan(
    data: Data = None,
    table: Table = None,
    group: Group = None,
    out: Out = None,
    test: Test = None,
    metric: Metric = "auto",
    backbone: Backbone = DEFAULT_BACKBONE,
    weights: Weights = None,
    size: Size = None,
    fit_image: FitImage = None,
    small_below: SmallBelow = _default("small_below"),
    large_above: LargeAbove = _default("large_above"),
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "auto",
) -> None:
    """Measure and decide only: which case, why, what would flip it."""
    from headstart import pipeline
    from headstart.plan.show import plan_text
    from headstart.run import read_json

    values = {key: value for key, value in locals().items() if key in FitSettings.model_fields}
    outcome = pipeline.plan(fit_settings(values))
    what = shlex.quote(show(data)) if data else f"--table {shlex.quote(show(table))}"
    typer.echo(plan_text(read_json(outcome.folder / "plan.json")))
    if outcome.already_done:
        typer.echo("this run is finished already", err=True)
    typer.echo(f"\nstored:  {show(outcome.folder)}")
    typer.echo(f"next:    headstart fit {what}")


@app.command()
def check(
    data: Data = None,
    table: Table = None,
    group: Group = None,
    out: Out = None,
    test: Test = None,
    seed: Seed = 0,
    resume: Resume = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 2 when there is anything to act on.")
    ] = False,
) -> None:
    """Look at the data only: broken files, copies, leaks, shortcuts."""
    from headstart import pipeline
    from headstart.plan.show import check_text
    from headstart.run import read_json

    values = {key: value for key, value in locals().items() if key in FitSettings.model_fields}
    outcome = pipeline.check_data(fit_settings(values))
    stored = read_json(outcome.folder / "data.json")
    typer.echo(check_text(outcome.folder, stored))
    if strict and pipeline.problems(stored):
        raise typer.Exit(2)


@app.command()
def compare(
    data: Data = None,
    table: Table = None,
    group: Group = None,
    out: Out = None,
    test: Test = None,
    metric: Metric = "auto",
    backbone: Backbone = DEFAULT_BACKBONE,
    weights: Weights = None,
    size: Size = None,
    fit_image: FitImage = None,
    epochs: Epochs = None,
    augment: AugmentList = "auto",
    folds: Annotated[int, typer.Option(help="Verifying folds that judge, 1 to 5.")] = 1,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "auto",
) -> None:
    """Do all four cases, and two more, on the same images."""
    values = dict(locals())
    from headstart import comparing
    from headstart.compared import compare_text
    from headstart.run import read_json

    outcome = comparing.compare(comparing.compare_settings(values))
    if outcome.already_done:
        typer.echo("this run is finished already", err=True)
    typer.echo(compare_text(outcome.folder, read_json(outcome.folder / "compare.json")))


@app.command()
def predict(
    model: Model,
    images: Images,
    out: Annotated[Path | None, typer.Option(help=".csv, .jsonl or .parquet; else stdout.")] = None,
) -> None:
    """Classify photos; CSV on stdout, or --out FILE."""
    from headstart.parallel import progress
    from headstart.settings import threads
    from headstart.ship.predict import check_out, expand, load, write_predictions

    if out is not None:
        check_out(out)
    loaded = load(model)
    files = expand(images)
    found = loaded.predict(files, workers=threads())
    if out is not None:
        found = progress(found, len(files), "predicting")
    answered, failed = write_predictions(found, loaded.classes, out, sys.stdout, loaded.columns)
    if failed or out is not None:
        place = f" written to {show(out)}" if out is not None else ""
        unread = f"; {failed:,} could not be read, see the column error" if failed else ""
        noun = "prediction" if answered == 1 else "predictions"
        typer.echo(f"{answered:,} {noun}{place}{unread}", err=True)


@app.command()
def evaluate(
    model: Model,
    data: Data = None,
    table: Table = None,
    group: Group = None,
    out: Out = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Compare the parts of the images, by a column."),
    ] = None,
    readers: Annotated[
        str | None, typer.Option(metavar="FILE.csv", help="What people said of these images.")
    ] = None,
    prevalence: Prevalence = None,
) -> None:
    """Judge a model on new labelled images."""
    from headstart.evaluating import evaluate as judge
    from headstart.plan.show import evaluation_text
    from headstart.run import read_json

    folder = judge(
        model, data, table=table, group=group, out=out, by=by or (), readers=readers,
        prevalence=prevalence,
    )  # fmt: skip
    typer.echo(evaluation_text(folder, read_json(folder / "evaluation.json")))


@app.command("next")
def next_images(
    model: Model,
    images: Images,
    n: Annotated[int, typer.Option("--n", help="At most this many.")] = 50,
    out: Annotated[Path | None, typer.Option(help="A .csv file; else stdout.")] = None,
) -> None:
    """Name the images to label next."""
    from headstart.proposing import next_images as propose

    found = propose(model, images, n, out)
    if out is None:
        typer.echo(found.csv, nl=False)
    place = f" written to {show(out)}" if out is not None else ""
    unread = f"; {found.unreadable:,} could not be read" if found.unreadable else ""
    typer.echo(f"{len(found.proposals):,} of {len(found.paths):,} images{place}{unread}", err=True)


@app.command()
def explain(
    model: Model,
    images: Images,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the pictures and a page.")],
    stage: Annotated[
        str | None, typer.Option(help="Where Grad-CAM reads; default: the last with positions.")
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Class to explain; default: each answer.")
    ] = None,
    method: Annotated[str, typer.Option(help="gradcam or saliency.")] = "gradcam",
) -> None:
    """Show which part of each photo speaks for a class."""
    from headstart.explaining import explain as explain_images

    found = explain_images(model, images, out, stage=stage, target=class_name, method=method)
    unread = sum(one.error is not None for one in found.explanations)
    typer.echo(show(found.folder / "index.html"))
    typer.echo(
        f"{len(found.explanations) - unread:,} explained"
        + (f"; {unread:,} could not be read" if unread else "")
        + f"; with random weights {found.sanity:.0%} of a map is left",
        err=True,
    )


@app.command()
def filters(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE", help="Name of a timm CNN.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the page.")],
    images: Annotated[
        str | None,
        typer.Argument(metavar="FOLDER", help="Your images; without them pictures are made up."),
    ] = None,
    weights: Weights = None,
    size: Size = None,
    seed: Annotated[int, typer.Option(help="Seed of the pictures that are made.")] = 0,
) -> None:
    """Show what a network's filters look for, from edges to objects."""
    from headstart.explain.filters import show_filters

    page = show_filters(backbone, images, out, weights=weights, size_px=size, seed=seed)
    typer.echo(show(page))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default: in RUN.")] = None,
) -> None:
    """Write the report again from a run's stored results."""
    from headstart.run import atomic_write
    from headstart.ship.compare_page import page_of

    name, page = page_of(run)
    target = out or run / name
    atomic_write(target, page)
    typer.echo(show(target))


@app.command()
def backbones(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show the stages of this network.")
    ] = None,
    weights: Weights = None,
    size: Size = None,
) -> None:
    """List the usable networks, or one network's stages in order."""
    from headstart.backbone.catalogue import catalogue_text, stages_text

    typer.echo(
        stages_text(name, Path(weights) if weights else None, size) if name else catalogue_text()
    )


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all cached features.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Exported networks too.")] = False,
    prune_to: Annotated[
        float | None, typer.Option("--prune", help="Shrink to this many MB.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show, prune or clear the cache of features."""
    from headstart.backbone import feature_cache
    from headstart.settings import cache_dir

    if clear or everything:
        feature_cache.clear(everything)
    if prune_to is not None:
        typer.echo(f"{feature_cache.prune(prune_to)} files removed", err=True)
    entries = feature_cache.cache_entries()
    if as_json:
        rows = [
            {"name": e.name, "mb": e.mb, "images": e.images, "used_days_ago": e.used_days_ago}
            for e in entries
        ]
        typer.echo(json.dumps({"folder": str(cache_dir()), "features": rows}))
        return
    total = sum(e.mb for e in entries)
    typer.echo(f"{cache_dir()}: {total:,.1f} MB of {feature_cache.cache_limit_mb():,.0f} MB")
    for e in entries:
        typer.echo(
            f"  {e.mb:8,.1f} MB  {e.images:8,} images  {e.used_days_ago:5.1f} days ago  {e.name}"
        )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    seed: Seed = 0,
) -> None:
    """Run fit on 1,797 handwritten digits, written out as images."""
    from headstart.demo import demo as run_demo

    outcome = run_demo(out, seed)
    _print_fit(outcome.folder, already_done=False)
    typer.echo("\nNow your own photos, one folder per class:  headstart fit my_photos")


def _print_fit(folder: Path, already_done: bool) -> None:
    """The result in a few lines on stdout."""
    from headstart.plan.show import fit_text
    from headstart.run import read_json

    if already_done:
        typer.echo("this run is finished already", err=True)
    typer.echo(
        fit_text(folder, read_json(folder / "plan.json"), read_json(folder / "evaluation.json"))
    )
