"""The designed grid, and that the runtime runs what it contains."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from predictors.extract import extract_block
from predictors.grid import COUNTS, MAX_MACS, designed, halton
from predictors.operators import INT8_TYPES, PAPER_TYPES, TYPES, Operator
from predictors.profile import MIN_PER_TYPE
from predictors.single_op import single_operator_model

FEW = designed(0.02)


def test_the_grid_has_every_type_and_the_forms_with_8_bits() -> None:
    counts = Counter(operator.kind for operator in designed())
    assert set(counts) == {*TYPES, *(f"{name}_int8" for name in INT8_TYPES)}
    assert all(counts[name] >= COUNTS[name] for name in PAPER_TYPES)
    few = Counter(operator.kind for operator in FEW)
    assert set(few) == set(counts)
    assert min(few.values()) >= MIN_PER_TYPE


def test_the_grid_is_the_same_each_time_and_repeats_nothing() -> None:
    operators = designed()
    assert operators == designed()
    assert len(set(operators)) == len(operators)


def test_no_operator_of_the_grid_is_too_large_for_a_small_box() -> None:
    assert max(operator.macs for operator in designed()) <= MAX_MACS
    assert max(operator.bytes_moved for operator in designed()) < 16 << 20


def test_each_hyper_parameter_of_a_convolution_takes_its_values_about_equally_often() -> None:
    convolutions = [operator for operator in designed() if operator.kind == "conv"]
    for values in (
        Counter(operator.source[2] for operator in convolutions),
        Counter(operator.result[2] for operator in convolutions),
        Counter(operator.activation for operator in convolutions),
    ):
        assert max(values.values()) < 6 * np.median(list(values.values()))
    assert {operator.kernel for operator in convolutions} >= {(1, 1), (3, 3), (5, 5), (7, 7)}
    assert {operator.stride for operator in convolutions} == {(1, 1), (2, 2)}


def test_what_residual_blocks_are_made_of_is_in_the_grid() -> None:
    shape = (16, 16, 32)
    wanted = Operator("conv", shape, shape, (3, 3), (1, 1), "relu")
    assert wanted in designed()
    assert Operator("add", shape, shape, activation="relu") in designed()


def test_the_sequence_fills_the_unit_interval_evenly() -> None:
    assert [halton(n, 2) for n in (1, 2, 3, 4)] == [0.5, 0.25, 0.75, 0.125]
    drawn = np.array([halton(n, 3) for n in range(1, 244)])
    assert np.histogram(drawn, 9, (0, 1))[0].tolist() == [27] * 9


@pytest.mark.parametrize("operator", FEW, ids=lambda o: f"{o.kind}-{o.source}-{o.result}")
def test_a_model_of_one_operator_runs_and_is_read_as_that_operator(operator: Operator) -> None:
    content = single_operator_model(operator)
    block = extract_block(content, "model")
    assert block.operators == (operator,)
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    inputs = interpreter.get_input_details()
    (output,) = interpreter.get_output_details()
    assert sum(np.dtype(i["dtype"]).itemsize * np.prod(i["shape"]) for i in inputs) == (
        block.input_bytes
    )
    assert np.prod(output["shape"]) == np.prod(operator.result)
    for detail in inputs:
        interpreter.set_tensor(detail["index"], np.ones(detail["shape"], detail["dtype"]))
    interpreter.invoke()
    assert np.isfinite(interpreter.get_tensor(output["index"]).astype(float)).all()
