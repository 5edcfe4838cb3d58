"""Pictures of what was done and seen."""
