"""The encoder layers that each level reads (taps).

Oracles: the layers that the CascadeXML authors published, and order and range for any number of layers and levels.
"""

import pytest

from cxml.errors import ConfigError
from cxml.model.encoder import default_taps, parse_taps


@pytest.mark.parametrize(
    ("num_levels", "taps"),
    [
        (4, ((5, 6), (8,), (10,), (12,))),
        (3, ((7, 8), (10,), (12,))),
        (2, ((9, 10), (12,))),
        (1, ((11, 12),)),
    ],
)
def test_twelve_layers_give_the_papers_taps(num_levels, taps):
    assert default_taps(12, num_levels) == taps


@pytest.mark.parametrize(("num_levels", "taps"), [(4, ((2, 3), (4,), (5,), (6,))), (3, ((3, 4), (5,), (6,)))])
def test_six_layers_read_the_same_shares_of_the_depth(num_levels, taps):
    assert default_taps(6, num_levels) == taps


@pytest.mark.parametrize("num_layers", range(1, 30))
@pytest.mark.parametrize("num_levels", range(1, 8))
def test_taps_exist_never_go_back_and_end_at_the_last_layer(num_layers, num_levels):
    taps = default_taps(num_layers, num_levels)
    flat = [layer for tap in taps for layer in tap]
    assert len(taps) == num_levels
    assert flat == sorted(flat)
    assert flat[0] >= 0
    assert flat[-1] == num_layers


def test_a_layer_deeper_than_the_encoder_is_refused():
    with pytest.raises(ConfigError, match="the encoder has 6 layers"):
        parse_taps(("5+6", "8"), 6)
