"""The flags that several commands share: what each is called, takes and means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headstart.settings import METRICS

# Paths stay text until the settings have looked at them: Path("") would be the current folder.
Data = Annotated[
    str | None,
    typer.Argument(metavar="DATA", help="Folder: CLASS/* or {train,val,test}/CLASS/*."),
]
Table = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.csv",
        help="Instead of DATA: columns path,label, if you like group, split and others.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN|re:PATTERN",
        help="Images of one group (a patient, a plant) stay on one side of every split.",
    ),
]
GroupSites = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN|re:PATTERN",
        help="Images of one group (a patient, a plant) stay on one side of every split; of 2 to 20 "
        "groups each is held out in turn.",
    ),
]
GroupDraws = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN|re:PATTERN",
        help="Images of one group (a patient, a plant) count as one draw in every interval.",
    ),
]
By = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN",
        help="Compare the images by a column of the table, numbers of many values by quarters. "
        "Default: the first 6 columns of 2 to 20 values, if most have 20 images or more.",
    ),
]
Out = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Folder for the results; default runs/<data>-<k>."),
]
Test = Annotated[str | None, typer.Option(metavar="DIR", help="Folder of test images: CLASS/*.")]
Metric = Annotated[
    str, typer.Option(metavar="NAME", help="Drives every choice: " + ", ".join(METRICS) + ".")
]
Case = Annotated[int | None, typer.Option(help="Force one of the four cases: 1 to 4.")]
Cut = Annotated[
    str | None,
    typer.Option(
        metavar="STAGE",
        help="Keep the stages up to this one; their names: headstart backbones NAME.",
    ),
]
FromScratch = Annotated[bool, typer.Option("--from-scratch", help="Force random weights.")]
Backbone = Annotated[str, typer.Option(help="Name of a timm CNN.")]
Weights = Annotated[
    str | None, typer.Option(metavar="FILE", help="File with the backbone's weights.")
]
Size = Annotated[int | None, typer.Option(help="Side of the network's input in px, 32 to 1024.")]
FitImage = Annotated[
    str | None,
    typer.Option(
        metavar="crop|pad|squash",
        help="How a photo becomes a square: cut, bordered or squeezed; default: chosen by the data.",
    ),
]
HeadKind = Annotated[
    str,
    typer.Option(
        "--head",
        metavar="linear|mlp:WIDTH",
        help="The new head: one layer, or a hidden layer of this width before it.",
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        help="Passes over the images when the network is trained (with --case 3, 4 or "
        "--from-scratch); default: from the number of images."
    ),
]
EpochsCompared = Annotated[
    int | None,
    typer.Option(
        help="Passes over the images when a network is trained; default: from the number of images."
    ),
]
AugmentList = Annotated[
    str, typer.Option(metavar="auto|none|LIST", help="E.g. flip,rotate90,colour. auto tests each.")
]
Budget = Annotated[
    float | None, typer.Option(help="Minutes to spend, default 10; 0: one look, frozen network.")
]
Prevalence = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLASS=SHARE",
        help="How common the class is where the model will be used, e.g. melanoma=0.01; adds PPV "
        "and NPV.",
    ),
]
Relabel = Annotated[
    str | None, typer.Option(metavar="FILE.csv", help="Corrected labels, as in suggestions.csv.")
]
SmallBelow = Annotated[int, typer.Option(help="Fewer training images than this are small.")]
LargeAbove = Annotated[int, typer.Option(help="This many training images are large.")]
RefitAll = Annotated[
    bool,
    typer.Option(
        "--refit-all",
        help="After scoring, learn again from all images, the held-out ones too; the score stays "
        "that of before.",
    ),
]
Seed = Annotated[int, typer.Option(help="Another number, other splits and random draws.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with a run that was interrupted (--out, or the newest), or print a finished one.",
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Log training to RUN/tensorboard as well.")
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.html.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Run folder or model folder.")]
Images = Annotated[
    list[Path], typer.Argument(metavar="IMAGE", help="Images, or folders of images.")
]
