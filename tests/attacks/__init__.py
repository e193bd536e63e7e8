"""Hostile files: what each is, the bytes of it, and what must be said of it.

A module a kind. `reader` opens them in a process of its own, `test_attacks.py` judges.
"""
