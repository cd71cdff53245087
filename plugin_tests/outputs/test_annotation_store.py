"""The annotation store for TIAToolbox's viewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up_scores import (
    ORIGIN,
    block,
    hot_attention,
    make_bag,
    result_of,
    score,
    scores_of,
)

from tiacrossfusion.outputs.annotation_store import AnnotationStoreWriter, open_annotation_store


def test_the_store_is_read_back_with_shares_and_level_0_coordinates(tmp_path: Path):
    bag = make_bag(block(12, 12), offset=(100, 50))
    attention = hot_attention(bag, {(1, 1): 2.0, (2, 1): 2.0})
    attention["20x"][0] = np.nan
    attribution = {"20x": np.linspace(-1, 0.25, 144) / 144}
    result = result_of(bag, scores_of(bag, attention, attribution=attribution))
    scores, hotspots = result.scores["20x"], result.hotspots
    AnnotationStoreWriter().write(tmp_path, "slide", result)

    store = open_annotation_store(tmp_path / "slide.db")
    assert len(store) == 144 + len(hotspots)
    assert store.metadata["tiacrossfusion"]["model"] == ORIGIN["model"]
    hot = store.query(
        where='(props["type"]=="Tile") & (props["Attention fused percentile"] > 0.95)'
    )
    assert len(hot) == 8
    first = store["20x_0_0"]
    assert first.geometry.bounds == (100, 50, 506, 506)
    assert "Attention 20x percentile" not in first.properties
    share = round(score(scores, "Attention 5x").percentiles[0] / 100, 6)
    assert first.properties["Attention 5x percentile"] == share
    spot = store["hotspot_raises_1"]
    assert spot.properties["name"] == "Raises the risk 1"
    assert spot.properties["Attribution total mean"] == pytest.approx(hotspots[0].mean, rel=1e-5)
    assert first.properties["Attribution 20x"] == 0
    assert store["20x_11_11"].properties["Attribution 20x"] == 1  # raises the risk most
    assert spot.geometry.equals(hotspots[0].polygon)
    for annotation in store.values():
        kinds = ("Attention ", "Attribution ")
        shares = [
            value
            for name, value in annotation.properties.items()
            if name.startswith(kinds) and not name.endswith(" mean")
        ]
        assert all(0 <= share <= 1 for share in shares)
    store.close()
