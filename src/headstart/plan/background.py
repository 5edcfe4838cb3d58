"""What explains the decision without taking part in it."""

from __future__ import annotations

from dataclasses import dataclass

from headstart.plan.baseline import Baseline
from headstart.plan.control import Control
from headstart.plan.evidence import Resolution, SourceEvidence


@dataclass(frozen=True, slots=True)
class Background:
    """Detail in the images, what the source's classes know, what does without a network or training."""

    resolution: Resolution
    evidence: SourceEvidence | None
    baselines: tuple[Baseline, ...]
    control: Control | None
    """the depth profile of the random twin; None where no time was given for it"""
