"""Which of the four cases is this? Measure, decide, verify."""
