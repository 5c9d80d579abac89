"""What several gateways, or several workers of one, share may be away at any time, and everyone goes on without it.

The seams to it stand where they are used: `Books` in quota.py, `Leases` in leases.py, `SharedStore` in cache/shared.py.
"""


class Unanswered(Exception):
    """Whoever was asked is away, took too long or refused. Whoever asked goes on without it."""
