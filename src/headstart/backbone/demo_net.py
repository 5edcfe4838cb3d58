"""The demonstration network: three convolutional and three fully connected layers, to be read whole.

    pixels                                                 3 x 32 x 32
    conv1      3 ->  32, 3 x 3, BatchNorm, ReLU, halved   32 x 16 x 16
    conv2     32 ->  64, the same                         64 x  8 x  8
    conv3     64 -> 128, the same                        128 x  4 x  4
    fc1     2048 -> 128, ReLU, dropout                   128
    fc2      128 ->  64, ReLU, dropout                    64
    fc3       64 ->   C, the classifier                    C

It is pre-trained in minutes on two CPU cores, on any folder of images with one folder per class:

    python -m headstart.backbone.demo_net --data FOLDER --out FILE.safetensors
    headstart fit my_photos --backbone demo --weights FILE.safetensors

N images, C classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

SIDE_PX = 32
CONFIG: dict[str, Any] = {
    "input_size": (3, SIDE_PX, SIDE_PX),
    "fixed_input_size": True,
    "crop_pct": 1.0,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "classifier": "fc3",
    "license": "that of the images it was trained on",
}
"""the same words as timm's for its networks"""
WIDTHS = (32, 64, 128)
DROPOUT = 0.25


def convolution(entering: int, leaving: int) -> nn.Sequential:
    """One convolutional layer; it halves the sides."""
    return nn.Sequential(
        nn.Conv2d(entering, leaving, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(leaving),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def fully_connected(entering: int, leaving: int) -> nn.Sequential:
    """One fully connected layer."""
    return nn.Sequential(nn.Linear(entering, leaving), nn.ReLU(), nn.Dropout(DROPOUT))


class DemoNet(nn.Module):
    """See the module. Speaks as timm's networks do, so that every step can use it as a backbone.

    Args:
        num_classes: C; 0 leaves the classifier out.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = convolution(3, WIDTHS[0])
        self.conv2 = convolution(WIDTHS[0], WIDTHS[1])
        self.conv3 = convolution(WIDTHS[1], WIDTHS[2])
        self.fc1 = fully_connected(WIDTHS[2] * (SIDE_PX // 8) ** 2, 128)
        self.fc2 = fully_connected(128, 64)
        self.num_features = 64
        self.feature_info = [{"module": f"conv{i}"} for i in (1, 2, 3)]
        self.feature_info += [{"module": f"fc{i}"} for i in (1, 2)]
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a new one with random weights."""
        self.num_classes = num_classes
        self.fc3: nn.Module = nn.Identity()
        if num_classes:
            self.fc3 = nn.Linear(self.num_features, num_classes)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc3

    def forward_features(self, pixels: Tensor) -> Tensor:
        """[N, 3, 32, 32] normalised -> [N, 128, 4, 4]."""
        map_of_features: Tensor = self.conv3(self.conv2(self.conv1(pixels)))
        return map_of_features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """[N, 128, 4, 4] -> logits [N, C], or the 64 features that the classifier reads."""
        read: Tensor = self.fc2(self.fc1(features.flatten(1)))
        logits: Tensor = read if pre_logits else self.fc3(read)
        return logits

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3, 32, 32] normalised -> logits [N, C]."""
        return self.forward_head(self.forward_features(pixels))


if __name__ == "__main__":
    from headstart.backbone.pretrain import main

    raise SystemExit(main())
