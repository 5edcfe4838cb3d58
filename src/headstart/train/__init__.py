"""From a plan to a classifier."""
