"""Compare many runs: grids, statistics, reports, probes of frozen features."""
