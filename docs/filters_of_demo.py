"""Draw docs/pictures/filters.webp: what the demonstration network's stages look for.

    python docs/filters_of_demo.py [--out FILE]

The network is pre-trained here on scikit-learn's handwritten digits (8 px, enlarged to 32), in about
a minute, and the patches are cut from those digits: pictures that may be handed on.
"""

from __future__ import annotations

import argparse
import tempfile
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from headstart.backbone.load import DEMO, config_of, load, preprocess_of
from headstart.backbone.pretrain import pretrain
from headstart.data.images import load_pixels
from headstart.data.sources import image_files
from headstart.demo import write_digits
from headstart.explain.excite import cut_patch, excite, units
from headstart.explain.kernels import kernels_of
from headstart.explain.receptive import fields
from headstart.files import atomic_write

STAGES = ("conv1", "conv2", "conv3", "fc2")
MOST_IMAGES = 1200
EPOCHS = 10
UNITS, ACROSS = 4, 3
PATCH, GAP, SPACE, MARGIN, TITLE = 46, 3, 20, 20, 34
KERNEL = 28
INK, MUTED = "#1d2a35", "#55636f"
MOST_BYTES = 200_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pictures/filters.webp")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        digits, weights = write_digits(Path(work) / "digits"), Path(work) / "demo.safetensors"
        done = pretrain(digits, weights, EPOCHS, flip=False, tell=print)
        print(f"{done.n_train} digits, {done.accuracy:.3f} of {done.n_test} others right")
        atomic_write(given.out, drawn(weights, digits))


def drawn(weights: Path, images: Path) -> bytes:
    """The picture as lossless WebP."""
    network, pre = load(DEMO, weights).network, preprocess_of(config_of(DEMO), None)
    draw = torch.Generator().manual_seed(0)
    shape = (1, 3, pre.size_px, pre.size_px)
    found = fields(network, [torch.randn(shape, generator=draw) for _ in range(4)])
    paths = image_files(images)
    paths = paths[:: max(1, len(paths) // MOST_IMAGES)]
    excited = excite(network, paths, pre, found)
    # In grey pictures the three colours are equal, and a filter answers to the sum of its weights.
    weights_of_grey = network.conv1[0].weight.detach().sum(1)[..., None].expand(-1, -1, -1, 3)
    kernels = [
        large(Image.fromarray(k.pixels), KERNEL) for k in kernels_of(weights_of_grey.numpy())
    ]
    rows = [("first layer: the filters themselves, 3 by 3 px; grey is zero", [grid(kernels, 16)])]
    for stage in STAGES:
        field = found[stage]
        seen = f"{field.whole_px} by {field.whole_px} px"
        seen = "the whole picture" if field.positions == 1 else seen
        shown = []
        for unit in units(excited, field, UNITS, ACROSS * ACROSS):
            cuts = [cut_patch(load_pixels(p.path, pre)[0], p.box) for p in unit.patches]
            shown.append(grid([large(cut, PATCH) for cut in cuts], ACROSS))
        rows.append((f"{stage}: what excites some of its units most; each sees {seen}", shown))
    return page(rows)


def large(picture: Image.Image, side: int) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.NEAREST)


def grid(pictures: list[Image.Image], across: int) -> Image.Image:
    """Pictures of one size in rows."""
    side = pictures[0].width + GAP
    down = -(-len(pictures) // across)
    out = Image.new("RGB", (across * side - GAP, down * side - GAP), "white")
    for i, picture in enumerate(pictures):
        out.paste(picture, (i % across * side, i // across * side))
    return out


def page(rows: list[tuple[str, list[Image.Image]]]) -> bytes:
    """Titled rows of grids below each other."""
    widths = [sum(g.width + SPACE for g in grids) for _, grids in rows]
    heights = [TITLE + max((g.height for g in grids), default=0) for _, grids in rows]
    size = (2 * MARGIN + max(widths) - SPACE, 2 * MARGIN + sum(heights) + 10 * (len(rows) - 1))
    out = Image.new("RGB", size, "white")
    pen, font, y = ImageDraw.Draw(out), ImageFont.load_default(15), MARGIN
    for (title, grids), height in zip(rows, heights, strict=True):
        pen.text((MARGIN, y + 6), title, fill=INK, font=font)
        x = MARGIN
        for one in grids:
            out.paste(one, (x, y + TITLE))
            x += one.width + SPACE
        y += height + 10
    content = BytesIO()
    out.save(content, "WEBP", lossless=True)
    assert len(content.getvalue()) <= MOST_BYTES, "the picture grew too large for the repository"
    return content.getvalue()


if __name__ == "__main__":
    main()
