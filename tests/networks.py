"""Tiny networks with random weights, and graphs that are exported in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def random_network(name: str, classes: int = 7, seed: int = 0) -> Any:
    """A network of timm in eval mode; its BatchNorms have seen something."""
    import timm
    import torch

    torch.manual_seed(seed)
    network = timm.create_model(name, pretrained=False, num_classes=classes)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def random_weights(name: str, path: Path, classes: int = 7, seed: int = 0) -> Path:
    """A file with random weights: .safetensors, or anything else for torch's own format."""
    import torch
    from safetensors.torch import save_file

    state = random_network(name, classes, seed).state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def export_here(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Export in this process instead of a child's, which saves its start; returns the requests."""
    from headstart.backbone.export_graph import export

    requests: list[dict[str, Any]] = []

    def here(request: dict[str, Any]) -> None:
        requests.append(request)
        export(request)

    monkeypatch.setattr("headstart.backbone.graph._export_in_child", here)
    return requests
