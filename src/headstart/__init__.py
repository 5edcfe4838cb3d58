"""headstart gives your images a head start: it adapts a pre-trained CNN to your own folder.

Importing it loads nothing heavy; the verbs load what they need when they are called.
"""

from headstart.api import (
    Compared,
    Decided,
    Evaluated,
    Result,
    compare,
    evaluate,
    explain_images,
    fit,
    load,
    make_plan,
    next_images,
    show_filters,
)
from headstart.errors import HeadstartError

__all__ = [
    "Compared",
    "Decided",
    "Evaluated",
    "HeadstartError",
    "Result",
    "compare",
    "evaluate",
    "explain_images",
    "fit",
    "load",
    "make_plan",
    "next_images",
    "show_filters",
]
