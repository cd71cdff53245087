"""What a bag is known by wherever it lies and whatever it is called."""

from __future__ import annotations

import hashlib

import numpy as np

from tiacrossfusion.bags.bag import FeatureBag


def bag_identities(bag: FeatureBag) -> tuple[str, ...]:
    """Return hashes by which bags are of one slide: of its file, if known, and of its features."""
    content = hashlib.sha256()
    for scale, found in sorted(bag.scales.items()):
        content.update(f"{scale} {found.features.shape}".encode())
        content.update(np.ascontiguousarray(found.features, np.float16).data)
    texts = [f"features {content.hexdigest()}"]
    if bag.provenance.slide_hash:
        texts.append(f"file {bag.provenance.slide_size} {bag.provenance.slide_hash}")
    return tuple(hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts)
