"""Measuring: engines and baselines in one interleaved session, and where a sample's time goes."""
