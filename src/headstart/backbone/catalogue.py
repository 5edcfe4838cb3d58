"""Which networks are usable right now, and what their stages are; for the terminal."""

from __future__ import annotations

from pathlib import Path

from headstart.backbone.graph import read_graph, tap_graph
from headstart.backbone.load import embedded_file
from headstart.backbone.twin import RANDOM
from headstart.errors import show
from headstart.settings import DEFAULT_BACKBONE, cache_dir


def catalogue_text() -> str:
    """Embedded, exported and downloaded networks; how to get others."""
    lines = ["usable right now:"]
    lines.append(f"  {DEFAULT_BACKBONE:<32} embedded ({embedded_file().name})")
    for description in sorted((cache_dir() / "graphs").glob("*/graph.json")):
        graph = read_graph(description.parent)
        if RANDOM in graph.source:  # the control, of no use to anybody
            continue
        size = graph.preprocess.size_px
        lines.append(f"  {graph.name:<32} exported at {size} px ({show(graph.source)})")
    for repository in _hub_cache():
        lines.append(f"  {repository:<32} in the local hub cache")
    lines += [
        "",
        "Any other timm CNN by name: --backbone NAME fetches it from the hub, or give --weights FILE.",
        "A small one to read, trained in minutes: python -m headstart.backbone.demo_net --help",
        f"Stages of a network: headstart backbones {DEFAULT_BACKBONE}",
    ]
    return "\n".join(lines)


def stages_text(name: str, weights: Path | None, size_px: int | None) -> str:
    """A network's stages in order: where it can be cut, and what is kept then."""
    graph = tap_graph(name, weights, size_px, [])
    total = graph.stages[-1].macs
    lines = [
        f"{graph.name}, {graph.preprocess.size_px} px, {graph.source_classes} source classes, "
        f"licence {graph.licence}, weights from {show(graph.source)}",
        "",
        f"  {'stage':<12}{'features':>9}{'side':>8}{'parameters':>13}{'of the work':>13}",
    ]
    for stage in graph.stages:
        lines.append(
            f"  {stage.name:<12}{stage.width:>9}{stage.side_px:>5} px{stage.parameters:>13,}"
            f"{stage.macs / total:>12.0%}"
        )
    lines += ["", "Cut at any stage but the last: headstart fit DATA --cut STAGE"]
    return "\n".join(lines)


def _hub_cache() -> list[str]:
    """timm networks whose weights the hub library has stored on this machine."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = sorted(Path(HF_HUB_CACHE).glob("models--timm--*/snapshots/*/model.safetensors"))
    return [folder.parts[-4].removeprefix("models--timm--").split(".")[0] for folder in folders]
