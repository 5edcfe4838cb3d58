"""The commands that begin with a finished model or run: arguments only, as in `cli`, which lists them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from headstart.errors import show
from headstart.flags import (
    By,
    Data,
    GroupDraws,
    Images,
    Model,
    Out,
    Prevalence,
    Size,
    Table,
    Weights,
)


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


def evaluate(
    model: Model,
    data: Data = None,
    table: Table = None,
    group: GroupDraws = None,
    out: Out = None,
    by: By = None,
    readers: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.csv",
            help="What people said of these images: reader,path,answer, or their rates.",
        ),
    ] = None,
    prevalence: Prevalence = None,
    together: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CLASS",
            help="Classes that also count as one: once for each of them, under one name.",
        ),
    ] = None,
) -> None:
    """Judge a model on new labelled images."""
    from headstart.evaluating import evaluate as judge
    from headstart.plan.show import evaluation_text
    from headstart.run import read_json

    folder = judge(
        model, data, table=table, group=group, out=out, by=by or (), readers=readers,
        prevalence=prevalence, together=together or (),
    )  # fmt: skip
    typer.echo(evaluation_text(folder, read_json(folder / "evaluation.json")))


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
    from headstart.explaining import sanity_words

    found = explain_images(model, images, out, stage=stage, target=class_name, method=method)
    unread = sum(one.error is not None for one in found.explanations)
    typer.echo(show(found.folder / "index.html"))
    typer.echo(
        f"{len(found.explanations) - unread:,} explained"
        + (f"; {unread:,} could not be read" if unread else "")
        + f"; {sanity_words(found)}",
        err=True,
    )


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


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A second one: both side by side.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file; default: in RUN, of two in runs/<first>-and-<second>-<k>."),
    ] = None,
) -> None:
    """Write a run's report again; of two runs, a page with both."""
    from headstart.run import atomic_write
    from headstart.ship.compare_page import page_of

    if other is not None:
        from headstart.pairing import report_pair

        typer.echo(show(report_pair(run, other, out)))
        return
    name, page = page_of(run)
    target = out or run / name
    atomic_write(target, page)
    typer.echo(show(target))
