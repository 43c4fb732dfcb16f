"""Tensor files have the same bytes as those that the safetensors library writes, for any names, types and shapes."""

import numpy as np
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxml.checkpoint.tensor_files import _TYPES, tensor_file

SHAPES = st.lists(st.integers(0, 5), max_size=3)
NAMES = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(['a"b', "labels/00000/weight", "é\n"])


@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(_TYPES, key=str)), SHAPES), max_size=6))
def test_a_file_has_the_bytes_that_the_library_gives(kinds):
    tensors = {
        name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in kinds.items() if name != "__metadata__"
    }
    assert bytes(tensor_file(tensors)) == safetensors.torch.save(tensors)


def test_a_tensor_of_one_number_is_written_with_any_stride():
    tensors = {"weight": torch.from_numpy(np.broadcast_to(np.float32(2.5), (1,)).copy()).as_strided((1,), (0,))}
    assert bytes(tensor_file(tensors)) == safetensors.torch.save({"weight": torch.tensor([2.5])})
