"""Encoders of many architectures: the features of a text are those of transformers for this text alone.

Oracle: the model of transformers with its own config, run on one text at a time, without padding and mask.
"""

import pytest
import torch
from support.encoders import ARCHITECTURES, LAYERS, VOCABULARY, save_encoder

from cxml.config import ModelConfig
from cxml.data.pretrained import load_pretrained
from cxml.errors import ConfigError
from cxml.internals.transformers import takes_wide_mask
from cxml.model import activation_bytes, build_encoder
from cxml.model.encoder import layers_of

LENGTHS = (3, 17, 9, 1)
NUMBERED = sorted(ARCHITECTURES.keys() - {"albert", "xlm", "mamba"})
"""Kinds with one list of layers, whose first hidden states are the embeddings; those of Mamba are the first layer's."""


@pytest.fixture(params=sorted(ARCHITECTURES))
def kind(request):
    return request.param


@pytest.fixture
def saved(tmp_path, kind):
    return save_encoder(tmp_path, kind)


def texts():
    """Token ids without special ones and their mask, [B, T] each."""
    ids = torch.randint(4, VOCABULARY, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return ids.where(mask == 1, 0), mask


def built(folder, **values):
    config = ModelConfig(encoder=str(folder), **{"pooling": "mean", "taps": ("0", "1", "2"), **values})
    return build_encoder(config, num_levels=len(config.taps)).eval()


def test_features_are_those_of_each_text_alone(tmp_path, saved):
    alone = saved.get_encoder() if saved.config.is_encoder_decoder else saved
    ids, mask = texts()
    with torch.no_grad():
        found = built(tmp_path)(ids, mask)
        for row, length in enumerate(LENGTHS):
            states = alone(ids[row : row + 1, :length], output_hidden_states=True).hidden_states
            assert len(states) == LAYERS + 1
            for feature, state in zip(found, states, strict=True):
                torch.testing.assert_close(feature[row], state[0].mean(0), rtol=1e-3, atol=1e-4)


def test_a_mask_for_every_query_is_used_only_where_it_has_the_same_effect(tmp_path, saved):
    model = load_pretrained(ModelConfig(encoder=str(tmp_path)))
    ids, mask = texts()
    if not takes_wide_mask(model):
        return
    wide = mask.bool()[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
    with torch.no_grad():
        found, expected = (model(ids, attention_mask=each).last_hidden_state for each in (wide, mask))
    torch.testing.assert_close(found[mask == 1], expected[mask == 1])


def test_bert_takes_a_mask_for_every_query_and_causal_or_local_attention_does_not(tmp_path):
    kinds = ("bert", "roberta", "distilbert", "gpt2", "llama", "mistral", "clip_text_model", "modernbert")
    models = {kind: save_encoder(tmp_path / kind, kind) for kind in kinds}
    assert [kind for kind, model in models.items() if takes_wide_mask(model)] == ["bert", "roberta", "distilbert"]


@pytest.mark.parametrize("kind", NUMBERED)
def test_no_trained_weight_affects_the_states_of_frozen_layers(tmp_path, saved):
    encoder = built(tmp_path, freeze_layers=1)
    ids, mask = texts()
    states = encoder.transformer(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert not any(state.requires_grad for state in states[:2])
    assert states[2].requires_grad
    stack = layers_of(encoder.transformer, "model.freeze_layers", 1, "")
    assert all(weight.requires_grad for weight in stack[1].parameters())


@pytest.mark.parametrize("kind", ["albert", "xlm"])
def test_an_encoder_without_one_list_of_layers_cannot_be_frozen_in_part(tmp_path, saved):
    with pytest.raises(ConfigError, match=r"model\.freeze_layers = 1: the layers .* cannot be identified"):
        built(tmp_path, freeze_layers=1)


def test_a_model_built_from_the_architecture_has_the_same_weights_and_features(tmp_path, saved):
    encoder = built(tmp_path)
    config = ModelConfig(encoder="none", taps=("0", "1", "2"), pooling="mean")
    again = build_encoder(config, 3, encoder.transformer.config).eval()
    again.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        for found, expected in zip(again(*texts()), encoder(*texts()), strict=True):
            assert torch.equal(found, expected)


def test_training_with_recomputed_activations_gives_the_same_gradients(tmp_path, saved):
    if not saved.supports_gradient_checkpointing:
        with pytest.raises(ConfigError, match=r"train\.activation_checkpointing = True"):
            built(tmp_path).recompute_activations()
        return
    lean = built(tmp_path)
    lean.recompute_activations()
    found, expected = gradients(lean), gradients(built(tmp_path))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4)


def gradients(encoder):
    """The gradients of all weights in training without dropout."""
    for module in encoder.modules():
        rates = [name for name, value in vars(module).items() if isinstance(value, float) and "dropout" in name]
        vars(module).update(dict.fromkeys(rates, 0.0))
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.stack([feature.sin().sum() for feature in encoder.train()(*texts())]).sum().backward()
    return {name: each.grad for name, each in encoder.named_parameters() if each.grad is not None}


def test_memory_is_measured_without_data_or_unknown(tmp_path, saved):
    with torch.device("meta"):
        encoder = build_encoder(ModelConfig(encoder="none"), 1, saved.config)
    found = activation_bytes(encoder, 2, 8, torch.float32, recomputes=False)
    assert found is None or found > 0


def test_features_in_bf16_are_in_bf16_and_near_those_in_float32(tmp_path, saved):
    encoder = built(tmp_path, taps=("0+1", "2"))
    with torch.no_grad():
        expected = encoder(*texts())
        for found, exact in zip(encoder.bfloat16()(*texts()), expected, strict=True):
            assert found.dtype == torch.bfloat16
            assert (found - exact).norm() <= 0.1 * exact.norm()
