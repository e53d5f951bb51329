"""Seeds of images: one for each image and candidate, whatever else is in the batch."""

from __future__ import annotations

import hashlib


def image_seed(seed: int, stimulus_id: str) -> int:
    """Return the seed of one stimulus' image in a run with `seed`, between 0 and 2^63 - 1.

    Examples
    --------
    >>> image_seed(0, "46002") == image_seed(0, "46002"), image_seed(0, "46002") == image_seed(1, "46002")
    (True, False)
    """
    digest = hashlib.sha256(f"{seed}\0{stimulus_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def candidate_seed(seed: int, candidate: int) -> int:
    """Return the seed of one of several candidates for an image; candidate 0 has the image's own seed."""
    return seed if candidate == 0 else image_seed(seed, f"candidate {candidate}")
