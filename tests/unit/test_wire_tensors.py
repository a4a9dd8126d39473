"""Tensor frames: arrays come back as they were; frames that do not fit are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continuer.bundle import DTYPES
from continuer.errors import WireError
from continuer.wire import (
    MAX_RANK,
    MAX_TENSORS,
    TensorMeta,
    from_frames,
    to_frames,
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (1, 2, 3), (1,) * MAX_RANK])
def test_a_tensor_of_any_dtype_comes_back_as_it_was(dtype: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape))
    tensor = np.arange(count).astype(dtype).reshape(shape)
    frames = [bytes(frame) for frame in to_frames([tensor])]
    (back,) = from_frames([TensorMeta(dtype, shape)], frames)
    assert back.dtype == tensor.dtype
    assert back.shape == shape
    assert np.array_equal(back, tensor)


def test_frames_are_contiguous_whatever_the_array_was() -> None:
    across = np.arange(6, dtype=np.float32).reshape(2, 3).T
    (back,) = from_frames([TensorMeta("float32", (3, 2))], [bytes(to_frames([across])[0])])
    assert np.array_equal(back, across)


def test_several_tensors_keep_their_order() -> None:
    tensors = [np.full((1, n), n, np.int16) for n in (1, 2, 3)]
    found = [TensorMeta("int16", (1, n)) for n in (1, 2, 3)]
    back = from_frames(found, [memoryview(t.tobytes()) for t in tensors])
    assert [t.tolist() for t in back] == [t.tolist() for t in tensors]


@pytest.mark.parametrize(
    ("meta", "size", "problem"),
    [
        (TensorMeta("complex64", (1,)), 8, "dtype 'complex64' is not one of"),
        (TensorMeta("object", (1,)), 8, "dtype 'object'"),
        (TensorMeta(">f4", (1,)), 4, "dtype '>f4'"),
        (TensorMeta("float32", (2, 3)), 23, "23 bytes are no float32 of shape"),
        (TensorMeta("float32", (2, 3)), 25, "25 bytes"),
        (TensorMeta("float32", (2, 3)), 0, "0 bytes"),
        (TensorMeta("float32", (0,)), 0, "shape"),
        (TensorMeta("float32", (-1,)), 4, "shape"),
        (TensorMeta("float32", (-2, -2)), 16, "shape"),
        (TensorMeta("int8", (1,) * (MAX_RANK + 1)), 1, "shape"),
        (TensorMeta("int8", (2**32, 2**32)), 0, "bytes are no int8"),
        (TensorMeta("float64", (2**61,)), 0, "bytes are no float64"),
        (TensorMeta("int8", (2**63, 2)), 0, "bytes are no int8"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_by_name(
    meta: TensorMeta, size: int, problem: str
) -> None:
    fits = TensorMeta("uint8", (1,))
    with pytest.raises(WireError, match="tensor 1: ") as caught:
        from_frames([fits, meta], [b"\0", b"\0" * size])
    assert problem in str(caught.value)


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_as_many_frames_as_descriptions_are_wanted(frames: int) -> None:
    with pytest.raises(WireError, match=f"{frames} tensor frames for 2 descriptions"):
        from_frames([TensorMeta("uint8", (1,))] * 2, [b"\0"] * frames)


def test_the_number_of_tensors_is_bounded() -> None:
    meta = TensorMeta("uint8", (1,))
    assert len(from_frames([meta] * MAX_TENSORS, [b"\0"] * MAX_TENSORS)) == MAX_TENSORS
    with pytest.raises(WireError):
        from_frames([meta] * (MAX_TENSORS + 1), [b"\0"] * (MAX_TENSORS + 1))


DESCRIPTIONS = st.builds(
    TensorMeta,
    st.sampled_from([*DTYPES, "object"]),
    st.lists(st.integers(-1, 3) | st.integers(), max_size=MAX_RANK + 1).map(tuple),
)


@given(st.lists(DESCRIPTIONS, max_size=3), st.lists(st.binary(max_size=16), max_size=3))
def test_any_descriptions_over_any_frames_are_a_wire_error_or_fit(
    found: list[Any], frames: list[bytes]
) -> None:
    try:
        arrays = from_frames(found, frames)
    except WireError:
        return
    assert [a.tobytes() for a in arrays] == frames
