"""Measuring: engines and baselines in one interleaved session, and where a sample's time goes.

`session.measure` times `rows.Case`s and gives `rows.Row`s; `tables` writes them down; `split` has
T(u) = |u| sum(c + d). docs/benchmarking.md says how it is measured and what the fields mean.
"""
