"""A Hugging Face text encoder whose layers feed the levels of the cascade.

A tap names the layers that a level reads. Layers are numbered as in Hugging Face's `hidden_states`: 0 is the embedding
output, 1 the first layer's output.
"""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PretrainedConfig, PreTrainedModel

from cxml.config import ModelConfig
from cxml.data import Part, Windows, length_parts
from cxml.data.pretrained import load_pretrained, new_transformer
from cxml.errors import ConfigError
from cxml.internals.torch import state_with_modules
from cxml.internals.transformers import register_recorders, takes_wide_mask, without_recorders
from cxml.model.compilation import compile_layers
from cxml.model.cpu_attention import CpuTraining

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


class TappedEncoder(nn.Module):
    """Computes one feature vector per level from a text.

    Each level pools the hidden states of the layers it taps, over all windows of a text (`cxml.data.windows`). A level
    with several layers concatenates them and projects them back to the hidden size (the paper's level 0); the
    projection is initialised to their mean, which is meaningful after pretraining. Each level has its own dropout. The
    last level's feature may pass a bottleneck, a linear map to fewer dimensions, initialised to random orthogonal
    directions.

    Attributes:
        hidden_size: hidden size of the transformer, D.
        feature_sizes: width of each level's feature: D, or the width of the bottleneck for the labels.
        bottleneck: the map to the label feature; the identity without a bottleneck.
        splits_batches: whether batches with short and long rows are computed in two parts in training.
        is_compiled: whether `compile_layers` has been called.
    """

    def __init__(
        self,
        transformer: PreTrainedModel,
        taps: tuple[Tap, ...],
        *,
        pooling: str,
        projection_dropout: float,
        dropouts: tuple[float, ...],
        bottleneck: int = 0,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.taps = taps
        self.pooling = pooling
        self.hidden_size: int = transformer.config.hidden_size
        self.splits_batches = False
        self.is_compiled = False
        self._takes_wide_mask = takes_wide_mask(transformer)
        self._feature_dtype: torch.dtype | None = None
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Dropout(projection_dropout), _mean_of(len(tap), self.hidden_size))
            if len(tap) > 1
            else nn.Identity()
            for tap in taps
        )
        self.dropouts = nn.ModuleList(nn.Dropout(rate) for rate in dropouts)
        label_width = bottleneck or self.hidden_size
        self.feature_sizes = (*(self.hidden_size for _ in taps[1:]), label_width)
        self.bottleneck = _orthogonal(self.hidden_size, bottleneck) if bottleneck else nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, windows: Windows | None = None) -> list[Tensor]:
        """Features of each level.

        Args:
            input_ids: token ids of texts, int64 [B, T], or of their windows, [n, T].
            attention_mask: 1 for tokens, 0 for padding, of the same shape.
            windows: texts of the windows; None if each row is a text.

        Returns:
            One tensor [B, feature_sizes[level]] per level, in the weights' dtype; float32 from `predicting_in`.
        """
        *features, last = self.wide_features(input_ids, attention_mask, windows)
        return [*features, self.bottleneck(last)]

    def wide_features(self, input_ids: Tensor, attention_mask: Tensor, windows: Windows | None = None) -> list[Tensor]:
        """Like `forward`, with the label feature before the bottleneck: one tensor [B, D] per level."""
        if self.splits_batches and torch.is_grad_enabled() and windows is None:
            parts = length_parts(attention_mask.sum(1).numpy(), attention_mask.shape[1])
            if parts is not None:
                return self._in_parts(parts, input_ids, attention_mask)
        return self._features(input_ids, attention_mask, windows)

    def _in_parts(self, parts: tuple[Part, Part], input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """The features of all rows, in their order, computed part by part."""
        found = []
        for part in parts:
            rows = torch.from_numpy(part.rows)
            found.append(self._features(input_ids[rows, : part.width], attention_mask[rows, : part.width]))
        place = torch.from_numpy(np.argsort(np.concatenate([part.rows for part in parts])))
        return [torch.cat(level)[place] for level in zip(*found, strict=True)]

    def _features(self, input_ids: Tensor, attention_mask: Tensor, windows: Windows | None = None) -> list[Tensor]:
        mask = self._shown(attention_mask)
        with self._attention():
            states = self.transformer(input_ids, attention_mask=mask, output_hidden_states=True).hidden_states
        dtype = self._feature_dtype or self.transformer.dtype  # Mamba's states are in float32 between its layers
        features = []
        for tap, projection, dropout in zip(self.taps, self.projections, self.dropouts, strict=True):
            pooled = torch.cat([self._pool(states[layer], attention_mask, windows) for layer in tap], dim=-1)
            features.append(dropout(projection(pooled.to(dtype))))
        return features

    def _shown(self, mask_BT: Tensor) -> Tensor:
        """The mask for the transformer.

        The host reads a two-dimensional mask, because it may be omitted; on an accelerator the host would wait for it.
        There, the mask is [B, 1, T, T] if the transformer accepts it.
        """
        if mask_BT.device.type == "cpu" or not self._takes_wide_mask:
            return mask_BT
        return mask_BT.bool()[:, None, None, :].expand(-1, 1, mask_BT.shape[1], -1)

    def _attention(self) -> AbstractContextManager[object]:
        """Within this context, the transformer trains with the fastest attention and dropout.

        The compiler cannot read the operations for CPUs. In compiled bf16 layers on a CPU, PyTorch's plain attention is
        faster than its fused one, whose backward pass multiplies the matrices of each text and head separately.
        """
        if self.transformer.device.type != "cpu" or not torch.is_grad_enabled():
            return nullcontext()
        if not self.is_compiled:
            return CpuTraining()
        return sdpa_kernel(SDPBackend.MATH) if self.transformer.dtype == torch.bfloat16 else nullcontext()

    def predicting_in(self, dtype: torch.dtype) -> TappedEncoder:
        """An encoder with the transformer in a number format and features in float32: this one, or a copy."""
        if all(parameter.dtype == dtype == torch.float32 for parameter in self.parameters()):
            return self
        found = copy.deepcopy(self).float()
        cast(nn.Module, found.transformer).to(dtype)
        found._feature_dtype = torch.float32
        return found

    def __deepcopy__(self, memo: dict[int, object]) -> TappedEncoder:
        """A copy with everything that `__getstate__` leaves out."""
        found = memo[id(self)] = self.__class__.__new__(self.__class__)
        vars(found).update(copy.deepcopy(vars(self), memo))
        return found

    def __getstate__(self) -> dict[str, object]:
        """State for a pickle, also after a prediction."""
        transformer = cast(nn.Module, without_recorders(self.transformer))
        return state_with_modules(self, {"transformer": transformer})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register_recorders(self.transformer)

    def recompute_activations(self) -> None:
        """Recompute activations inside the layers in the backward pass, for about a third more time.

        Raises:
            ConfigError: the encoder does not support it.
        """
        options = {"use_reentrant": False, "context_fn": self._contexts}
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")  # newer and earlier transformers
        enable = next(getattr(self.transformer, name) for name in names if hasattr(self.transformer, name))
        try:
            enable(options)
        except ValueError as error:
            problem = "this encoder cannot recompute activations"
            raise ConfigError("train.activation_checkpointing", True, problem, "Set it to false.") from error

    def compile_layers(self, device: torch.device, *, recompute: bool) -> None:
        """Compile the transformer's layers for training; see `cxml.model.compilation`.

        Args:
            device: device of the layers.
            recompute: also `recompute_activations`.

        Raises:
            ConfigError: the compiler does not work for this device, or the encoder has no list of layers.
        """
        self.is_compiled = True
        compile_layers(
            layers_of(self.transformer, "train.compile", True, "Set it to false."), device,
            contexts=self._contexts if recompute else None,
        )  # fmt: skip

    def _contexts(self) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        """The contexts of the forward pass, which is empty, and of recomputing activations."""
        return nullcontext(), self._attention()

    def _pool(self, states_NTD: Tensor, mask_NT: Tensor, windows: Windows | None = None) -> Tensor:
        """The mean over all tokens of a text, [B, D], or over the first tokens of its windows."""
        dtype = self._feature_dtype or states_NTD.dtype
        if self.pooling == "cls" and windows is None:
            return states_NTD[:, 0].to(dtype)
        # In fp32, because bf16 cannot count beyond 256.
        if self.pooling == "cls":
            sums_ND, counts_N1 = states_NTD[:, 0].float(), torch.ones_like(mask_NT[:, :1])
        else:
            sums_ND = (states_NTD * mask_NT.unsqueeze(-1)).sum(1, dtype=torch.float32)
            counts_N1 = mask_NT.sum(1, keepdim=True)
        if windows is not None:
            sums_ND, counts_N1 = windows.sum(sums_ND), windows.sum(counts_N1)
        return (sums_ND / counts_N1).to(dtype)


def _mean_of(num_layers: int, width: int) -> nn.Linear:
    linear = nn.Linear(num_layers * width, width)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(width).repeat(1, num_layers) / num_layers)
        linear.bias.zero_()
    return linear


def is_pretrained(name: str) -> bool:
    """Whether a parameter of a cascade belongs to the encoder, without the bottleneck, which belongs to the labels."""
    return name.startswith("encoder.") and not name.startswith("encoder.bottleneck.")


def _orthogonal(width: int, narrow: int) -> nn.Linear:
    """A map to orthogonal directions that preserves the mean norm of vectors, without a bias (rows have one)."""
    linear = nn.Linear(width, narrow, bias=False)
    nn.init.orthogonal_(linear.weight, gain=math.sqrt(width / narrow))
    return linear


def build_encoder(config: ModelConfig, num_levels: int, architecture: PretrainedConfig | None = None) -> TappedEncoder:
    """Build the encoder of `config`.

    Args:
        config: the model's settings.
        num_levels: levels of the cascade, labels included.
        architecture: builds new weights from this architecture (for loading a checkpoint); None loads pretrained ones.

    Raises:
        ConfigError: a layer does not exist in the encoder, or the bottleneck is wider than the encoder.
    """
    transformer = load_pretrained(config) if architecture is None else new_transformer(architecture)
    if getattr(transformer, "pooler", None) is not None:
        transformer.pooler = nn.Identity()  # the levels read hidden states; an unused pooling head would only decay
    num_layers, width = transformer.config.num_hidden_layers, transformer.config.hidden_size
    if config.bottleneck > width:
        problem = f"is wider than the encoder, which has {width} dimensions"
        raise ConfigError("model.bottleneck", config.bottleneck, problem, "Use fewer, such as 64, or 0 for none.")
    _freeze(transformer, config.freeze_layers)
    return TappedEncoder(
        transformer,
        parse_taps(config.taps, num_layers) if config.taps else default_taps(num_layers, num_levels),
        pooling=config.pooling,
        projection_dropout=config.projection_dropout,
        dropouts=config.dropouts or _evenly_spaced_dropouts(num_levels),
        bottleneck=config.bottleneck,
    )


def _evenly_spaced_dropouts(num_levels: int) -> tuple[float, ...]:
    """From .2 at the coarsest level to .5 at the labels, the range of the paper's settings."""
    if num_levels == 1:
        return (0.5,)
    return tuple(round(0.2 + 0.3 * level / (num_levels - 1), 3) for level in range(num_levels))


def _freeze(transformer: PreTrainedModel, num_frozen: int) -> None:
    """Train only the layers after the first `num_frozen`; does nothing if that is 0.

    Weights outside the layers, such as relative position embeddings, can affect the first layers, so they are frozen.
    """
    if num_frozen == 0:
        return
    num_layers = transformer.config.num_hidden_layers
    if num_frozen > num_layers:
        raise ConfigError("model.freeze_layers", num_frozen, f"the encoder has {num_layers} layers", "Use fewer.")
    layers = layers_of(transformer, "model.freeze_layers", num_frozen, "Set it to 0.")
    cast(nn.Module, transformer).requires_grad_(False)
    for layer in layers[num_frozen:]:
        layer.requires_grad_(True)


def layers_of(transformer: PreTrainedModel, field: str, value: object, remedy: str) -> nn.ModuleList:
    """The transformer's layers in their order.

    Raises:
        ConfigError: they cannot be found; names the field that needs them, its value, and the remedy.
    """
    layers = find_layers(transformer)
    if layers is None:
        raise ConfigError(field, value, "the layers of this encoder cannot be identified", remedy)
    return layers


def find_layers(transformer: PreTrainedModel) -> nn.ModuleList | None:
    """The transformer's layers in their order; None if they share weights, or if their parts are in several lists."""
    num_layers = transformer.config.num_hidden_layers
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in transformer.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and len(module) == num_layers and not is_inside:
            stacks[name] = module
    return stacks.popitem()[1] if len(stacks) == 1 else None
