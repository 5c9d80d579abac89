"""Names for requests and answers. They are no secrets, so the system's randomness is asked once, not for each."""

import random

_numbers = random.Random()  # noqa: S311 - seeded by the system


def fresh() -> str:
    """128 random bits, as 32 hex digits."""
    return f"{_numbers.getrandbits(128):032x}"
