"""The command line: arguments only. Each command calls one function of the same name.

Messages go to stderr, results to stdout; `entry` turns errors into exit codes. Here are the commands
that begin with data; those that begin with a finished model or run are in `model_commands`.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.errors import ArgumentError, show
from headstart.flags import (
    AugmentList,
    Backbone,
    Budget,
    By,
    Case,
    Cut,
    Data,
    Device,
    Epochs,
    EpochsCompared,
    FitImage,
    FromScratch,
    Group,
    GroupSites,
    HeadKind,
    LargeAbove,
    Metric,
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
from headstart.model_commands import evaluate, explain, filters, next_images, predict, report
from headstart.settings import DEFAULT_BACKBONE, FitSettings, compare_settings, fit_settings

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


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"headstart {version('headstart')}")
        raise typer.Exit


@app.callback()
def _any_command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version.")
    ] = False,
) -> None: ...


@app.command(epilog="For example:  headstart fit my_photos --budget 20")
def fit(
    data: Data = None,
    table: Table = None,
    group: GroupSites = None,
    by: By = None,
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
    outcome = pipeline.plan(fit_settings(values, "plan"))
    typer.echo(plan_text(read_json(outcome.folder / "plan.json")))
    if outcome.already_done:
        typer.echo("this run is finished already", err=True)
    typer.echo(f"\nstored:  {show(outcome.folder)}")
    typer.echo(f"next:    {_fit_of(outcome.folder)}")


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
    outcome = pipeline.check_data(fit_settings(values, "check"))
    stored = read_json(outcome.folder / "data.json")
    found = pipeline.problems(stored)
    typer.echo(check_text(outcome.folder, stored))
    mend = "mend what is listed above; then: " if found else ""
    typer.echo(f"next:    {mend}{_fit_of(outcome.folder)}")
    if strict and found:
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
    epochs: EpochsCompared = None,
    augment: AugmentList = "auto",
    folds: Annotated[
        int,
        typer.Option(help="Verifying folds that judge, 1 to 5, and more where groups are large."),
    ] = 1,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "auto",
) -> None:
    """Do all four cases, and two more, on the same images."""
    values = dict(locals())
    from headstart import comparing
    from headstart.compared import compare_text
    from headstart.run import read_json

    outcome = comparing.compare(compare_settings(values))
    if outcome.already_done:
        typer.echo("this run is finished already", err=True)
    typer.echo(compare_text(outcome.folder, read_json(outcome.folder / "compare.json")))


app.command(epilog="For example:  headstart predict runs/my_photos-1 new_photos --out new.csv")(
    predict
)
app.command(epilog="For example:  headstart evaluate runs/my_photos-1 labelled_photos")(evaluate)
app.command("next")(next_images)
app.command()(explain)
app.command()(filters)
app.command()(report)


@app.command()
def backbones(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show the stages of this network.")
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
    everything: Annotated[
        bool, typer.Option("--all", help="With --clear: exported networks too.")
    ] = False,
    prune_to: Annotated[
        float | None, typer.Option("--prune", help="Shrink to this many MB.", min=0)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show, prune or clear the cache of features."""
    from headstart.backbone import feature_cache
    from headstart.settings import cache_dir

    if everything and not clear:
        raise ArgumentError("--all goes with --clear", do="See headstart cache --help.")
    before = _cached_mb()
    if clear:
        feature_cache.clear(everything)
    if prune_to is not None:
        feature_cache.prune(prune_to)
    if clear or prune_to is not None:
        typer.echo(f"{before - _cached_mb():,.1f} MB removed", err=True)
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
    from headstart.demo import how_to_go_on

    outcome = run_demo(out, seed)
    _print_fit(outcome.folder, already_done=False)
    typer.echo("\nNow your own photos, one folder per class:")
    for line in how_to_go_on():
        typer.echo(f"    {line}")


def _print_fit(folder: Path, already_done: bool) -> None:
    """The result in a few lines on stdout."""
    from headstart.plan.show import fit_text
    from headstart.run import read_json
    from headstart.ship.report_use import CORRECTED, fit_command

    if already_done:
        typer.echo("this run is finished already", err=True)
    again = fit_command(read_json(folder / "run.json"), relabel=folder / CORRECTED)
    plan, evaluation = (read_json(folder / name) for name in ("plan.json", "evaluation.json"))
    typer.echo(fit_text(folder, plan, evaluation, again))


def _fit_of(folder: Path) -> str:
    """The fit that belongs to a check or a plan, with all that was asked for."""
    from headstart.run import read_json
    from headstart.ship.report_use import fit_command

    return show(fit_command(read_json(folder / "run.json")) or "headstart fit DATA")


def _cached_mb() -> float:
    """Size of all that `cache` can remove."""
    from headstart.settings import cache_dir

    total = 0
    for name in ("features", "graphs"):
        for path in (cache_dir() / name).rglob("*"):
            with contextlib.suppress(OSError):  # another process may remove it
                total += path.lstat().st_size if path.is_file() else 0
    return total / 1e6
