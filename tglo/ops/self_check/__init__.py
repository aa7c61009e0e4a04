"""Kernels are trusted on a GPU once their results there have been compared with float64.

figures: how far an output is off. *_forms: the calls that are tried. verdicts: whether kernels are
trusted. record: what is kept on disk. machine: the GPU.
"""
