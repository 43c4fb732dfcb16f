"""Build the graph of an ONNX model, and its file of external data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_PREFIX = "cascade"
_ALIGNMENT = 4096
_DTYPES = {
    "fp32": TensorProto.FLOAT, "bf16": TensorProto.BFLOAT16, "fp8": TensorProto.UINT8, "int8": TensorProto.INT8,
    "int64": TensorProto.INT64,
}  # fmt: skip

Constant = int | float | list[int] | np.generic


class Graph:
    """Adds nodes to the graph of a model.

    A value is represented by its name. Numbers become constants. Axis 0 of a value are its rows, axis 1 the entries of
    a row.
    """

    def __init__(self, model: onnx.ModelProto, data: BinaryIO) -> None:
        """`data` is the model's file of external data, to append to."""
        self._graph = model.graph
        self._data = data

    def add(self, op: str, *inputs: str | Constant, **attributes: object) -> str:
        """The output of a new node."""
        return self._add(op, 1, inputs, attributes)[0]

    def best(self, values: str, k: str | Constant) -> tuple[str, str]:
        """The k largest of each row, largest first, and their places; equal ones in the order of their places."""
        largest, places = self._add("TopK", 2, (values, k), {"axis": 1})
        return largest, places

    def at(self, values: str, places: str) -> str:
        """The entries of each row at int64 [B, K] `places`."""
        return self.add("GatherElements", values, places, axis=1)

    def width(self, values: str) -> str:
        """Entries of a row, int64 [1]."""
        return self.add("Shape", values, start=1, end=2)

    def cast(self, values: str, to: int) -> str:
        """Values as another type of `TensorProto`."""
        return self.add("Cast", values, to=to)

    def stored(self, name: str, values: np.ndarray, number_format: str) -> str:
        """Add an array to the file of external data, without a copy of it in memory.

        Args:
            name: of the array in the model.
            values: of any shape; bf16 as uint16, fp8 as uint8.
            number_format: fp32, bf16, fp8, int8 or int64.
        """
        self._data.write(bytes(-self._data.tell() % _ALIGNMENT))
        tensor = TensorProto(name=name, data_type=_DTYPES[number_format], dims=values.shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": Path(self._data.name).name, "offset": self._data.tell(), "length": values.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        np.ascontiguousarray(values).tofile(self._data)
        self._graph.initializer.append(tensor)
        return name

    def take(self, name: str, values: str, element_type: int, sizes: list[str | int]) -> None:
        """Make a value an output of the model."""
        self._graph.node.append(helper.make_node("Identity", [values], [name], name=name))
        self._graph.output.append(helper.make_tensor_value_info(name, element_type, sizes))

    def _add(
        self, op: str, num_outputs: int, inputs: tuple[str | Constant, ...], attributes: dict[str, Any]
    ) -> list[str]:  # fmt: skip
        number = len(self._graph.node)
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        outputs = [f"{_PREFIX}.{op}.{number}.{output}" for output in range(num_outputs)]
        self._graph.node.append(helper.make_node(op, names, outputs, name=f"{_PREFIX}.{op}.{number}", **attributes))
        return outputs

    def _constant(self, value: Constant) -> str:
        is_plain = isinstance(value, float) and not isinstance(value, np.generic)
        array = np.asarray(value, np.float32 if is_plain else None)
        name = f"{_PREFIX}.constant.{len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name
