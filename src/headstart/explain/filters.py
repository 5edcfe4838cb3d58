"""The hierarchy of filters: what each stage of a network looks for, as one page.

First the filters of the first layer as they are; then, for some units of every stage, the patches
of the user's own images that excite them most, or, without images, pictures made to excite them.

D channels, k side of a kernel, S side of the network's input in px.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from headstart.backbone.load import config_of, load, preprocess_of
from headstart.data.images import Preprocess, load_pixels
from headstart.data.sources import image_files
from headstart.errors import ArgumentError, DataError
from headstart.explain.excite import cut_patch, excite, units
from headstart.explain.field import Field, field_words
from headstart.explain.kernels import Kernel, kernel_words, kernels_of
from headstart.explain.maximise import maximise
from headstart.explain.page import SMALL_PX, inline, render_page
from headstart.explain.receptive import activations, fields
from headstart.files import atomic_write
from headstart.parallel import progress

MOST_IMAGES = 400
MOST_STAGES = 12
DREAMS = 6
"""units of each stage for which a picture is made"""
DREAM_STEPS = 64
PATCH_PX, DREAM_PX = 112, 160
SMALL_FIELD_PX = 48
DREAM_SIDES_PX = (64, 112)
"""side of a made picture: where a unit sees little of it, and else"""
DEAD = 1e-3
"""units that noise moves less than this share of the most moved one do not answer at all"""
SIDES_PX = (32, 1024)


def show_filters(
    backbone: str,
    folder: str | Path | None,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    size_px: int | None = None,
    seed: int = 0,
) -> Path:
    """Show what the filters of every stage look for; returns the page, `index.html` in `out`.

    Args:
        folder: images, of which at most `MOST_IMAGES`, evenly spread, are looked at. None: pictures
            are made up that excite the units.
        weights: file with the backbone's weights. size_px: side of the network's input.

    Raises:
        ArgumentError, WeightsError: see `backbone.load`. DataError: no image could be read.
    """
    if size_px is not None and not SIDES_PX[0] <= size_px <= SIDES_PX[1]:
        raise ArgumentError("--size must be from 32 to 1024", received=size_px)
    paths = [] if folder is None else _spread(image_files(Path(folder)))
    if folder is not None and not paths:
        raise DataError("There is no image below this folder", where=folder)
    loaded = load(backbone, None if weights is None else Path(weights))
    network, pre = loaded.network, preprocess_of(config_of(backbone), size_px)
    found = fields(network, _probes(pre, seed), seed)
    names = _some(list(found))
    drawn = _patches if paths else _dreams
    stages, facts = drawn(network, pre, {name: found[name] for name in names}, paths, seed)
    kernels = first_filters(network)
    page = render_page(
        "filters.html",
        {
            "name": backbone,
            "kernels": [
                {"index": k.index, "source": inline(Image.fromarray(k.pixels))} for k in kernels
            ],
            "kernels_words": kernel_words(kernels),
            "stages": stages,
            "notice": _left_out(list(found), names),
            **facts,
        },
    )
    target = Path(out) / "index.html"
    atomic_write(target, page)
    return target


def first_filters(network: nn.Module) -> list[Kernel]:
    """The filters of the first convolution that reads the pixels, as `kernels_of` draws them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            return kernels_of(module.weight.detach().float().permute(0, 2, 3, 1).numpy())
    return []


def _spread(paths: Sequence[Path]) -> list[Path]:
    """At most `MOST_IMAGES`, evenly spread over the folder."""
    if len(paths) <= MOST_IMAGES:
        return list(paths)
    picked = np.linspace(0, len(paths) - 1, MOST_IMAGES).round().astype(int)
    return [paths[i] for i in picked]


def _some(names: list[str]) -> list[str]:
    if len(names) <= MOST_STAGES:
        return names
    picked = np.linspace(0, len(names) - 1, MOST_STAGES).round().astype(int)
    return [names[i] for i in picked]


def _left_out(every: list[str], shown: list[str]) -> str:
    rest = [name for name in every if name not in shown]
    return (
        f"{len(shown)} of {len(every)} stages are shown; left out: {', '.join(rest)}."
        if rest
        else ""
    )


def _probes(pre: Preprocess, seed: int) -> list[Tensor]:
    """Inputs on which the fields are measured: noise, in which no unit sleeps for long."""
    draw = torch.Generator().manual_seed(seed)
    shape = (1, 3, pre.size_px, pre.size_px)
    return [torch.randn(shape, generator=draw) for _ in range(4)]


# -- with images ----------------------------------------------------------------------------------


def _patches(
    network: nn.Module, pre: Preprocess, found: dict[str, Field], paths: list[Path], seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    excited = excite(network, paths, pre, found)
    if not excited.paths:
        raise DataError("No image of this folder could be read", where=paths[0].parent)
    pixels: dict[Path, NDArray[np.uint8]] = {}
    stages = []
    for name, field in found.items():
        shown = []
        for unit in units(excited, field):
            patches = []
            for patch in unit.patches:
                if patch.path not in pixels:
                    pixels[patch.path] = load_pixels(patch.path, pre)[0]
                cut = cut_patch(pixels[patch.path], patch.box)
                small = max(cut.size) <= SMALL_PX / 2
                patches.append(
                    {"source": inline(cut, PATCH_PX), "path": patch.path.name, "small": small}
                )
            shown.append({"index": unit.index, "patches": patches, "mostly": unit.mostly})
        width = excited.peaks[name].values.shape[1]
        stages.append(
            {"name": name, "words": field_words(field, width, True), "units": shown, "dreams": []}
        )
    left = f" {excited.refused} files could not be read." if excited.refused else ""
    facts = {
        "opening": [
            f"Under each stage: some of its units, and the patches of {len(excited.paths):,} images "
            f"that excite them most, one per image.{left}",
            "Look from top to bottom: early stages answer to edges and colours, later ones to "
            "textures and parts, the last ones to whole things.",
        ],
        "footer": "Units are chosen for answering to a few images far more than to the others, and "
        "for differing from each other. What six patches have in common is a guess about a unit, "
        "not a proof.",
    }
    return stages, facts


# -- without --------------------------------------------------------------------------------------


def _dreams(
    network: nn.Module, pre: Preprocess, found: dict[str, Field], paths: list[Path], seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    with torch.inference_mode():
        examples = [activations(network, x) for x in _probes(pre, seed)]
    stages = []
    for name in progress(iter(found), len(found), "making pictures"):
        field, width = found[name], int(examples[0][name].shape[1])
        alive = _alive([example[name] for example in examples])
        picked = alive[np.linspace(0, len(alive) - 1, min(DREAMS, len(alive))).round().astype(int)]
        side = min(pre.size_px, DREAM_SIDES_PX[field.whole_px > SMALL_FIELD_PX])
        made = maximise(network, name, picked.tolist(), pre, side, seed, DREAM_STEPS)
        dreams = [
            {
                "index": int(i),
                "source": inline(Image.fromarray(p), DREAM_PX),
                "small": side <= SMALL_PX / 2,
            }
            for i, p in zip(picked, made, strict=True)
        ]
        stages.append(
            {"name": name, "words": field_words(field, width, False), "units": [], "dreams": dreams}
        )
    facts = {
        "opening": [
            "Under each stage: some of its units, and for each a picture that was made from noise to "
            "excite it. No image was looked at; give a folder to see patches of your own images.",
            "Look from top to bottom: early stages answer to edges and colours, later ones to "
            "textures and parts.",
        ],
        "footer": "A made picture exaggerates: it shows what excites a unit most, not what usually "
        "excites it.",
    }
    return stages, facts


def _alive(activations: Sequence[Tensor]) -> NDArray[np.int64]:
    """Units that answer to noise in different ways; all of them where none does."""
    values = torch.cat([a.transpose(0, 1).flatten(1) for a in activations], dim=1).float()
    spread = values.std(1).numpy()
    alive = np.flatnonzero(spread > DEAD * max(float(spread.max()), 1e-30))
    return alive if len(alive) else np.arange(len(spread))
