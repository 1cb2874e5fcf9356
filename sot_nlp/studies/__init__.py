"""Many runs and what they show: grids, statistics, reports, probes of frozen features."""
