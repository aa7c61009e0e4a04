"""The benchmarks behind `tglo bench` and benchmarks/: each result is checked before it is timed.

Importing this package imports nothing else, so that OMP_WAIT_POLICY can be set before torch loads.
"""
