"""Workloads of the benchmarks, with the scripts that made them."""
