"""What cases, strategies, findings and figures are called in the report."""

from __future__ import annotations

from headstart.ship.chart_parts import Record, named

CASES = {
    1: "few and similar to the source",
    2: "few and different from the source",
    3: "many and similar to the source",
    4: "many and different from the source",
}
RULE = {
    1: "new head on the frozen network",
    2: "new head on the early stages, frozen",
    3: "whole network re-trained",
    4: "trained from scratch, or re-trained",
}
"""what the rule of thumb says for each case"""
STRATEGIES = {
    "head_top": "kept the whole pre-trained network frozen and trained only a new last layer",
    "head_cut": "sliced off the later stages of the network, kept the early ones frozen and trained "
    "only a new last layer on their features",
    "finetune": "replaced the last layer and re-trained the whole network from its pre-trained weights",
    "scratch": "replaced the last layer and trained the whole network from random weights",
    "all_stages": "kept the whole pre-trained network frozen and trained one new layer on the "
    "features of every stage",
    "partial": "replaced the last layer and re-trained only the last stages of the network",
}
SHORT = {
    "head_top": "new head on the frozen network",
    "head_cut": "new head on the early stages, frozen",
    "finetune": "whole network re-trained",
    "scratch": "whole network trained from scratch",
    "all_stages": "new head on all stages, frozen",
    "partial": "last stages re-trained",
}
RETRAINED = ("finetune", "scratch", "partial")
PARTS = {
    r"head_top\b": SHORT["head_top"],
    r"head_cut@": "new head on the stages up to the one that is named, frozen",
    r"all_stages": SHORT["all_stages"],
    r"finetune\b": SHORT["finetune"],
    r"scratch\b": SHORT["scratch"],
    r"partial\b": SHORT["partial"],
    r"\+spread": "the head reads how much each feature varies over the image beside its mean",
    r"@squash": "images squeezed to a square instead of cropped",
    r"@pad": "images given a border to make them square",
    r"@rate[\d.e-]{1,12}": "trained at another rate than the first",
    r"@\d{1,5}px": "images shown at this many pixels to each side",
    r"\+mirror": "the head also learns from mirror images",
    r"\+weights": "every class weighs the same while the head learns",
    r"\+mlp:\d{1,5}": "a head with a hidden layer of this width",
}
"""what the parts of a candidate's name mean"""
OPERATIONS = {
    "crop": "a random part of the image",
    "flip": "mirrored left to right",
    "flip_vertical": "mirrored upside down",
    "rotate90": "turned by quarter turns",
    "rotate": "turned by a few degrees",
    "colour": "brightness, contrast and colour changed a little",
    "grey": "without colour now and then",
    "erase": "a rectangle covered now and then",
}
LIKENESS = {
    "similar": "similar to",
    "different": "different from",
    "unclear": "neither clearly similar to nor clearly different from",
}
KINDS = {
    "same content": "identical files",
    "copy": "saved again or resized",
    "turned": "mirrored or turned",
    "cropped": "slightly cropped",
    "exposed": "brighter, darker or of another contrast",
}
FINDINGS = {
    "conflict": (
        "One picture, two labels",
        "At most one of the labels can be right. Please look at these first.",
    ),
    "leak": (
        "One picture on both sides of the split",
        "The same picture for training and for the test would make the result rosier than it is. "
        "These were taken out of training, never out of the test.",
    ),
    "near": (
        "Nearly the same picture",
        "Saved again, resized, mirrored, turned, slightly cropped or re-exposed. They are kept on "
        "the same side of every split.",
    ),
    "copy": (
        "Copies",
        "The same file more than once. Copies are kept on the same side of every split.",
    ),
}
MEANINGS = {
    "accuracy": "share of images classified correctly",
    "balanced_accuracy": "mean over the classes of the share found, so that rare classes count equally",
    "macro_f1": "mean over the classes of the balance between precision and recall",
    "log_loss": "how far the given probabilities are from the truth; 0 is perfect",
    "auc": "chance that an image of the class scores higher than one of another class",
    "top5_accuracy": "share of images whose true class is among the five most likely",
    "brier": "mean squared error of the probabilities; 0 is perfect",
    "ece": "mean distance between confidence and accuracy; 0 is perfect",
}


def way_words(row: Record) -> str:
    """A way to train; two of one strategy are told apart by what stands behind its name.

    >>> way_words({"strategy": "finetune", "name": "finetune@160px@rate0.0003"})
    'whole network re-trained at 160 px, rate 0.0003'
    >>> way_words({"strategy": "partial", "name": "partial@b4"})
    'last stages re-trained after b4'
    """
    way = SHORT.get(str(row.get("strategy")), named(row.get("strategy")))
    said = []
    for part in str(row.get("name") or "").split("@")[1:]:
        rate, size = part.removeprefix("rate"), part.removesuffix("px")
        said.append(
            f"rate {rate}" if rate != part else f"{size} px" if size != part else f"after {part}"
        )
    first = "" if not said or said[0].startswith("after") else "at "
    return f"{way} {first}{', '.join(said)}" if said else way
