"""headstart gives your images a head start: it adapts a pre-trained CNN to your own folder.

Importing it loads nothing heavy; the verbs load what they need when they are called.
"""

from headstart.api import Result, explain_images, fit, load, make_plan, show_filters
from headstart.errors import HeadstartError

__all__ = [
    "HeadstartError",
    "Result",
    "explain_images",
    "fit",
    "load",
    "make_plan",
    "show_filters",
]
