"""Hand it over: bundle, predict, report."""
