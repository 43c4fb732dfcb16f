"""Which encoder layers each level of the cascade reads.

Layers are numbered as in Hugging Face's `hidden_states`: 0 is the embedding output, 1 the first layer's output.
"""

from __future__ import annotations

import math

from cxml.errors import ConfigError

_PAPER_DEPTH = 12
_LAYERS_BETWEEN_LEVELS = 2

Tap = tuple[int, ...]


def default_taps(num_layers: int, num_levels: int) -> tuple[Tap, ...]:
    """The paper's layers (its table of settings), scaled to an encoder of `num_layers`.

    With 12 layers the last level reads layer 12, each level above it two layers earlier, and level 0 reads two
    neighbouring layers: four levels read (5,6), 8, 10, 12 and three read (7,8), 10, 12.
    """
    from_the_end = [(num_levels - 1 - level) * _LAYERS_BETWEEN_LEVELS for level in range(num_levels)]
    scaled = [max(1, math.ceil((_PAPER_DEPTH - steps) * num_layers / _PAPER_DEPTH)) for steps in from_the_end]
    first, *deeper = scaled
    return ((first - 1, first), *((layer,) for layer in deeper))


def parse_taps(taps: tuple[str, ...], num_layers: int) -> tuple[Tap, ...]:
    """Read taps such as `("5+6", "8")` from a config.

    Raises:
        ConfigError: a layer is deeper than the encoder.
    """
    parsed = tuple(tuple(int(layer) for layer in tap.split("+")) for tap in taps)
    deepest = max(max(tap) for tap in parsed)
    if deepest > num_layers:
        raise ConfigError("model.taps", taps, f"the encoder has {num_layers} layers", f"Use layers 0 to {num_layers}.")
    return parsed
