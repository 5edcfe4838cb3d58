"""What explains the decision without taking part in it."""

from __future__ import annotations

from dataclasses import dataclass

from headstart.plan.baseline import Baseline
from headstart.plan.evidence import Resolution, SourceEvidence


@dataclass(frozen=True, slots=True)
class Background:
    """Detail in the images, what the source's classes know, and what does without a network."""

    resolution: Resolution
    evidence: SourceEvidence | None
    baselines: tuple[Baseline, ...]
