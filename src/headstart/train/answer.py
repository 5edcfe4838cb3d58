"""What a network under training says of pixels.

n images, C classes, D width of the top features, H W side in px.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from headstart.backbone.surgery import Adapted


def pooled_features(model: Adapted, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the head reads [n, D] of pixels uint8 [n, H, W, 3]."""
    import torch

    found: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        hook = model.head.register_forward_pre_hook(lambda _, x: found.append(x[0].cpu().numpy()))
        try:
            answers(model, pixels)
        finally:
            hook.remove()
    return np.concatenate(found)


def answers(model: Adapted, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits [n, C] of pixels uint8 [n, H, W, 3], on the device where the model is."""
    import torch

    model.eval()
    device = model.head.weight.device
    parts = np.array_split(pixels, max(1, len(pixels) // 16))
    with torch.inference_mode():
        found = [model(torch.from_numpy(part).to(device)).cpu().numpy() for part in parts]
    return np.concatenate(found)
