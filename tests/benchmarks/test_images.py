"""Arithmetic of the image benchmark, and its photos; no model runs."""

import io
from importlib.util import find_spec

import pytest
from images import compared, crops

SPEEDS = {"raw": 300.0, "raw_decoding": 200.0, "worker": 150.0, "worker_steady": 190.0, "optinfer": 100.0}


def test_ratios_are_over_the_loop_that_decodes():
    result = compared({**SPEEDS, "optinfer_steady": 180.0}, decode_share=0.33)
    assert result["steady_ratio_raw_decoding"] == 0.9
    assert result["worker_steady_ratio_raw_decoding"] == 0.95
    assert result["ratio_raw_decoding"] == 0.5
    assert result["bottleneck"] == "model"


def test_decoding_is_the_bottleneck_where_it_takes_longer():
    result = compared({**SPEEDS, "optinfer_steady": None}, decode_share=0.6)
    assert result["bottleneck"] == "decoding"
    assert result["steady_ratio_raw_decoding"] is None


def test_no_two_photos_are_alike():
    image = pytest.importorskip("PIL.Image")
    if find_spec("skimage") is None:
        pytest.skip("the photos are not installed")
    photos = list(crops(14))
    assert len(set(photos)) == 14
    assert {image.open(io.BytesIO(photo)).size for photo in photos} == {(640, 480)}
