"""Parts in 8-bit integers, against the same in floats. Skipped where Keras is not installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from continuer.bundle import TensorSpec
from continuer.runtime import LoadedPart
from models import networks, weights
from tests.models.material import NO_KERAS, random_weights

pytest.importorskip("keras", reason=NO_KERAS)
pytest.importorskip("tensorflow", reason=NO_KERAS)

if TYPE_CHECKING:
    from models.network import Network

Floats = npt.NDArray[np.float32]


@dataclass
class Part:
    """A part in the runtime that takes and gives real numbers, whatever it computes in."""

    loaded: LoadedPart
    enters: TensorSpec
    leaves: TensorSpec
    operators: tuple[str, ...]

    def run(self, real: Floats) -> Floats:
        if self.enters.scale is None:
            return self.loaded.run([real])[0]
        steps = np.rint(real / self.enters.scale) + (self.enters.zero_point or 0)
        result = self.loaded.run([np.clip(steps, -128, 127).astype(np.int8)])[0]
        assert self.leaves.scale is not None
        return (result.astype(np.float32) - (self.leaves.zero_point or 0)) * self.leaves.scale


@dataclass
class Pair:
    """One network in floats and in integers."""

    network: Network
    floats: dict[str, Part]
    quantised: Network
    integers: dict[str, Part]
    images: Floats


@pytest.fixture(scope="module", params=["resnet32", "mobilenetv2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    from models import convert, ops_keras, quantised

    network = networks.define(request.param, 0.25)
    models = ops_keras.parts(network)
    weights.assign(models.values(), random_weights(network, 1))
    images = np.random.default_rng(2).standard_normal((24, 32, 32, 3)).astype(np.float32)
    found, contents = quantised.convert(network, models, images)
    plain = {name: convert.convert(model) for name, model in models.items()}
    directory = tmp_path_factory.mktemp(request.param)
    return Pair(
        network,
        {name: load(directory / f"float-{name}", content) for name, content in plain.items()},
        found,
        {name: load(directory / f"int8-{name}", content) for name, content in contents.items()},
        images,
    )


def load(path: Path, content: bytes) -> Part:
    from models.convert import Converted

    path.write_bytes(content)
    converted = Converted(content)
    (enters,), (leaves,) = converted.inputs("tensor"), converted.outputs()
    part = LoadedPart(path, [enters], [leaves])
    return Part(part, enters, leaves, converted.operators())


def apart(exact: Floats, rounded: Floats) -> float:
    """Mean difference in units of the exact values' deviation."""
    return float(np.abs(exact - rounded).mean() / exact.std())


def quantisation(spec: TensorSpec) -> Any:
    return spec.dtype, spec.scale, spec.zero_point


def test_every_part_computes_in_integers_alone(pair: Pair) -> None:
    for name, part in pair.integers.items():
        assert quantisation(part.enters)[0] == quantisation(part.leaves)[0] == "int8", name
        assert "DEQUANTIZE" not in part.operators, name
    assert set(pair.floats) <= set(pair.integers)


def test_a_tensor_between_parts_has_one_scale(pair: Pair) -> None:
    """Whoever reads it: the next block, an exit, and what comes after a skip."""
    flow = quantisation(pair.integers[pair.quantised.blocks[0].part].enters)
    for block in pair.quantised.blocks:
        own = pair.integers[block.part]
        assert quantisation(own.enters) == flow
        if block.bypass is not None:
            bypass = pair.integers[block.bypass]
            assert quantisation(bypass.enters) == flow
            assert quantisation(bypass.leaves) == quantisation(own.leaves)
        elif block.skippable:
            assert quantisation(own.leaves) == flow
        flow = quantisation(own.leaves)
        if block.exit is not None:
            assert quantisation(pair.integers[block.exit].enters) == flow


def test_full_path_and_exits_stay_near_the_floats(pair: Pair) -> None:
    for image in pair.images[:4]:
        exact = rounded = image[None]
        for block in pair.network.blocks:
            exact, rounded = (
                parts[block.part].run(flow)
                for parts, flow in ((pair.floats, exact), (pair.integers, rounded))
            )
            if block.exit is not None:
                logits = pair.floats[block.exit].run(exact)
                assert apart(logits, pair.integers[block.exit].run(rounded)) < 0.3, block.exit
        assert apart(exact, rounded) < 0.3


def reachable(spec: TensorSpec, real: Floats) -> Floats:
    """Real numbers, as far as a quantised tensor's range goes."""
    scale, zero = spec.scale or 0.0, spec.zero_point or 0
    return np.clip(real, (-128 - zero) * scale, (127 - zero) * scale)


def test_what_a_skip_leaves_is_the_floats_at_the_next_blocks_scale(pair: Pair) -> None:
    """Where nothing is computed on the way, within a step of rounding."""
    bypasses = {block.part: block.bypass for block in pair.quantised.blocks}
    flow, compared = pair.images[:1], 0
    for block in pair.network.blocks:
        name = bypasses[block.part]
        if name is not None:
            part = pair.integers[name]
            exact = flow if block.bypass is None else pair.floats[block.bypass].run(flow)
            exact, rounded = reachable(part.leaves, exact), part.run(flow)
            if block.bypass is None:
                assert part.operators == ("QUANTIZE",)
                step = (part.enters.scale or 0) / 2 + (part.leaves.scale or 0)
                assert np.abs(rounded - reachable(part.enters, exact)).max() <= step
            else:
                assert apart(exact, rounded) < 0.2, name
            compared += 1
        flow = pair.floats[block.part].run(flow)
    assert compared == len(pair.network.skippable)


def test_no_relu_of_its_own_runs_where_rescaling_cuts_off(pair: Pair) -> None:
    assert all("RELU" not in part.operators for part in pair.integers.values())


def test_folding_an_exits_normalisation_changes_no_answer() -> None:
    """Also where a factor is negative, or a channel hardly varies."""
    from models import ops_keras, quantised

    network = networks.define("resnet32", 0.25)
    arrays = random_weights(network, 1)
    for name in network.exits:
        arrays[f"{name}/bn/gamma"][::3] *= -1
        arrays[f"{name}/bn/moving_variance"][1] = 1e-7
    models = ops_keras.parts(network)
    weights.assign(models.values(), arrays)
    generator = np.random.default_rng(5)
    inputs = {n: generator.random(models[n].inputs[0].shape, np.float32) for n in network.exits}
    before = {name: np.asarray(models[name](each)) for name, each in inputs.items()}
    quantised.fold_exits(network, models)
    for name, each in inputs.items():
        after = np.asarray(models[name](each))
        assert np.abs(after - before[name]).max() < 1e-3 * np.abs(before[name]).max()
        gamma, beta, mean, _ = models[name].get_layer(f"{name}.bn").get_weights()
        assert (gamma == 1).all()
        assert not beta.any()
        assert not mean.any()
