"""Which part of a picture speaks for a class: Grad-CAM at a stage, or the gradient of the pixels.

Grad-CAM (Selvaraju et al. 2017, section 3) weighs the channels of a stage's activation by the mean
slope of the class's logit, adds them up and keeps what speaks for the class. Saliency (Simonyan,
Vedaldi and Zisserman 2014, section 3) is the size of the logit's slope at every pixel.

A map can look convincing and say nothing of what was learned. `sanity` draws it again with random
weights (Adebayo et al. 2018, section 3.2): a map that stays the same explains the picture, not the
model.

C classes, h w positions of a map, S side of the network's input in px.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headstart.errors import ArgumentError, require
from headstart.explain.heat import Heat, Method, rank_correlation
from headstart.explain.rebuild import Rebuilt, as_input, randomised

METHODS: tuple[Method, ...] = ("gradcam", "saliency")
DRAWS = 3
"""random networks that a map is compared with"""


def grad_cam(model: Rebuilt, pixels: NDArray[np.uint8], target: int, stage: str) -> Heat:
    """Grad-CAM of one picture.

    Args:
        pixels: [S, S, 3] as the network sees them. target: index of the class.

    Raises:
        ArgumentError: no such stage, or one without positions. ExtraMissingError: no captum.
    """
    require("captum", "explain", "Explaining an answer")
    from captum.attr import LayerGradCam

    module, side = model.place(stage)
    if min(model.positions[stage]) < 2:
        raise ArgumentError(
            "This stage has no positions on the picture",
            received=stage,
            do=f"Use {default_stage(model)}, or another stage before it.",
        )
    found = LayerGradCam(model, module).attribute(
        as_input(pixels[None]).requires_grad_(),  # of frozen weights no slope would be kept
        target=target,
        attribute_to_layer_input=side == "in",
    )
    return Heat("gradcam", stage, target, _map(found))


def saliency(model: Rebuilt, pixels: NDArray[np.uint8], target: int) -> Heat:
    """The logit's slope at every pixel: the largest of the three channels, without its sign.

    Args:
        pixels: [S, S, 3] as the network sees them. target: index of the class.

    Raises:
        ExtraMissingError: no captum.
    """
    require("captum", "explain", "Explaining an answer")
    from captum.attr import Saliency

    found = Saliency(model).attribute(as_input(pixels[None]).requires_grad_(), target=target)
    return Heat("saliency", None, target, _map(found.amax(1, keepdim=True)))


def heat_map(
    model: Rebuilt, pixels: NDArray[np.uint8], target: int, method: Method, stage: str | None
) -> Heat:
    """Either method; without a stage Grad-CAM reads `default_stage`."""
    if method == "saliency":
        if stage is not None:
            raise ArgumentError(
                "Saliency reads the pixels, not a stage", received=f"--stage {stage}",
                do="Drop --stage, or use --method gradcam.",
            )  # fmt: skip
        return saliency(model, pixels, target)
    return grad_cam(model, pixels, target, stage or default_stage(model))


def _map(found: Tensor | tuple[Tensor, ...]) -> NDArray[np.float32]:
    tensor = found if isinstance(found, Tensor) else found[0]
    return np.asarray(tensor[0, 0].detach().float().numpy())


def default_stage(model: Rebuilt) -> str:
    """The last kept stage whose map has positions."""
    spatial = [stage for stage in model.kept if min(model.positions[stage]) >= 2]
    if not spatial:
        raise ArgumentError(
            "No stage of this model has positions on the picture", do="Use --method saliency."
        )
    return spatial[-1]


def sanity(
    model: Rebuilt,
    pictures: Sequence[tuple[NDArray[np.uint8], int]],
    method: Method,
    stage: str | None,
    seed: int = 0,
) -> float:
    """How much of a map is left when all weights are random: mean size of the rank correlation.

    0: nothing, the map shows what was learned. 1: all of it, the map shows the picture only.

    Args:
        pictures: pixels [S, S, 3] and the explained class of each.
    """
    twins = [randomised(model, seed + draw) for draw in range(DRAWS)]
    left = []
    for pixels, target in pictures:
        own = heat_map(model, pixels, target, method, stage).signed
        for twin in twins:
            other = heat_map(twin, pixels, target, method, stage).signed
            left.append(abs(rank_correlation(own, other)))
    return float(np.mean(left))
