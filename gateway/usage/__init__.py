"""What was used, and what it cost, per day, key, team and model.

`counts.py` is the arithmetic, `ledger.py` counts and writes, `disk.py` and `shared.py` are where it is kept.
"""
