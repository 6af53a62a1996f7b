"""The part of a photo that DreamBooth is fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.training.dreambooth import portrait


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ((40, 40, 60, 60), (100, 100)),
        ((0, 0, 20, 30), (100, 100)),
        ((80, 30, 100, 60), (60, 100)),
        ((5, 5, 95, 95), (100, 120)),
    ],
)
def test_a_portrait_holds_the_face_and_stays_inside_the_photo(box, shape):
    image = np.zeros((*shape, 3), dtype=np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    found = portrait(image, np.array(box, dtype=np.float32), 64, 64)
    assert found.shape == (64, 64, 3)
    # The whole face is in: its share of the picture is (face / side) squared.
    side = min(2.2 * max(x1 - x0, y1 - y0), *shape)
    expected = (x1 - x0) * (min(y1, shape[0]) - y0) / side**2
    assert (found > 127).mean() == pytest.approx(expected, rel=0.12)
