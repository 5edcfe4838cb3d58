"""headstart gives your images a head start: it adapts a pre-trained CNN to your own folder.

Importing it loads nothing heavy; the verbs load what they need when they are called.
"""

from headstart.api import Result, fit, load, make_plan
from headstart.errors import HeadstartError

__all__ = ["HeadstartError", "Result", "fit", "load", "make_plan"]
