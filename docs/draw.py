"""Draw the pictures of docs/concepts.md again, from the networks themselves.

python docs/draw.py [FOLDER]        default: docs/pictures
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from headstart.backbone.graph import StageInfo
from headstart.backbone.load import DEMO, config_of, create
from headstart.backbone.stages import describe
from headstart.explain.quadrants import draw_quadrants
from headstart.explain.surgery_diagram import Strategy, draw_surgery, overview, plan_surgery
from headstart.files import atomic_write
from headstart.settings import DEFAULT_BACKBONE

SOURCE_CLASSES, NEW_CLASSES = 4, 6
SEES = ["edges", "shapes", "shapes", *["higher-level features"] * 3]
SURGERIES: dict[str, tuple[str, int, Strategy, str | None, int]] = {
    # name: backbone, source classes, strategy, cut, new classes
    "case-1": (DEMO, SOURCE_CLASSES, "head_top", None, NEW_CLASSES),
    "case-2": (DEMO, SOURCE_CLASSES, "head_cut", "conv2", 2),
    "case-3": (DEMO, SOURCE_CLASSES, "finetune", None, NEW_CLASSES),
    "case-4": (DEMO, SOURCE_CLASSES, "scratch", None, 2),
    "all-stages": (DEMO, SOURCE_CLASSES, "all_stages", None, NEW_CLASSES),
    "partial": (DEMO, SOURCE_CLASSES, "partial", "conv2", NEW_CLASSES),
    "lite0-case-2": (DEFAULT_BACKBONE, 1000, "head_cut", "b2", NEW_CLASSES),
}


def pictures() -> dict[str, str]:
    """Every picture by the name of its file; a network's stages are measured, not written down."""
    drawn = {"quadrants": draw_quadrants()}
    drawn |= {f"quadrant-{case}": draw_quadrants(case) for case in (1, 2, 3, 4)}
    stages, facts = measured(DEMO, SOURCE_CLASSES)
    seen = overview(
        stages, **facts, groups=SEES, title="The demonstration network, as it was pre-trained"
    )
    drawn["overview"] = draw_surgery(seen)
    for name, (backbone, source_classes, strategy, cut, classes) in SURGERIES.items():
        stages, facts = measured(backbone, source_classes)
        drawn[name] = draw_surgery(plan_surgery(stages, strategy, cut, classes, **facts))
    return drawn


def measured(backbone: str, source_classes: int) -> tuple[tuple[StageInfo, ...], dict[str, object]]:
    """Stages of a network, and what else its drawing needs."""
    network, side = (
        create(backbone, source_classes).eval(),
        int(config_of(backbone)["input_size"][1]),
    )
    stages = describe(network, torch.zeros(1, 3, side, side))
    infos = [StageInfo(s.name, s.width, s.side_px, s.parameters, s.macs, s.keeps) for s in stages]
    classifier = sum(p.numel() for p in network.get_classifier().parameters())
    return tuple(infos), {"input_px": side, "classifier": (source_classes, classifier)}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    for name, drawing in pictures().items():
        atomic_write(folder / f"{name}.svg", drawing + "\n")


if __name__ == "__main__":
    main()
