"""Latency of operators and blocks on a kind of box, learned from its profile.

For each kind of operator: a sum of costs (a call, each multiply-accumulate, each byte, each
padded tile; fitted, none negative) carries the scale; an XGBoost regressor on the
hyper-parameters of the paper's Table I and what follows from them learns the logarithm of
what is left, which is how efficient the kernels are. So predictions stay sane beyond the grid,
where trees alone would be flat. Needs the extra ``predictors``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import xgboost
from scipy.optimize import nnls

from continuer.errors import EXIT_CONFIG, ContinuerError
from predictors.extract import Block, extract_block
from predictors.machine import Machine
from predictors.operators import Operator
from predictors.profile import Copy, Profile, Timing, encode

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

SCHEMA = 1
SEED = 123
#: Section IV-B of the paper; ``rounds`` is its n_estimators.
PAPER_SETTINGS: dict[str, float | int] = {
    "rounds": 1000,
    "learning_rate": 0.1,
    "max_depth": 10,
    "colsample_bytree": 1.0,
    "min_child_weight": 1.0,
}
#: What the runtime's kernels work on at once, on CPUs of different widths.
CHANNEL_TILES = (4, 8, 16, 32)
PLACE_TILES = (4, 6, 7)
#: Floats in a page of memory.
PAGE = 1024
ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2}
#: Written by ``python -m predictors.tuning``.
TUNED_FILE = Path(__file__).parent / "profiles" / "settings.json"
MAX_FACTOR = 20.0
MAX_FILE_BYTES = 256 << 20

Settings = Mapping[str, float | int]


class LatencyError(ContinuerError):
    """A latency model cannot be used, or knows nothing of what it is asked for."""

    exit_code = EXIT_CONFIG


@cache
def _tuned() -> dict[str, dict[str, float | int]]:
    raw = TUNED_FILE.read_bytes() if TUNED_FILE.exists() else b"{}"
    return msgspec.json.decode(raw, type=dict[str, dict[str, float | int]])


def default_settings(kind: str) -> dict[str, float | int]:
    """What Optuna found for this kind on the shipped profile; the paper's settings for others."""
    return {**PAPER_SETTINGS, **_tuned().get(kind, {})}


def features(operators: Sequence[Operator]) -> Floats:
    """Table I's hyper-parameters and what follows from them, one row an operator."""
    return np.array([_row(operator) for operator in operators], np.float64)


def _row(operator: Operator) -> list[float]:
    channels, filters = operator.source[2], operator.result[2]
    places = operator.result[0] * operator.result[1]
    area = _area(operator)
    return [
        *(*operator.source, *operator.result, *operator.kernel, *operator.stride),
        ACTIVATIONS[operator.activation],
        *(math.log(n) for n in (operator.macs, operator.bytes_moved, places * filters)),
        *(math.log(n) for n in (places, channels * area, operator.weights + 1)),
        operator.intensity,
        # Kernels work on tiles: one that is not filled costs as much as a full one.
        *(_filled(filters, tile) for tile in CHANNEL_TILES),
        *(_filled(channels, tile) for tile in CHANNEL_TILES),
        *(_filled(places, tile) for tile in PLACE_TILES),
        *(channels % 16, filters % 16, channels % 4),
        # Rows whose addresses differ by pages compete for the same lines of a cache.
        *(math.gcd(channels, PAGE), math.gcd(filters, PAGE)),
        # One tile of weights, which has to stay in the fastest cache.
        channels * area * min(filters, 16),
        operator.result[0] * operator.stride[0] - operator.source[0],
    ]


def _area(operator: Operator) -> int:
    return operator.kernel[0] * operator.kernel[1]


def _filled(count: int, tile: int) -> float:
    return count / (-(-count // tile) * tile)


def costs(operators: Sequence[Operator]) -> Floats:
    """What may cost time by itself, one row an operator; each is at least 0."""
    return np.array([_costs(operator) for operator in operators], np.float64)


def _costs(operator: Operator) -> list[float]:
    return [
        1.0,
        operator.macs,
        operator.macs / _filled(operator.result[2], 16),
        math.prod(operator.source),
        math.prod(operator.result),
        operator.weights,
        operator.result[0] * operator.result[1],
    ]


class Regressor:
    """Latency of one kind of operator."""

    def __init__(self, coefficients: Floats, booster: xgboost.Booster) -> None:
        self._coefficients = coefficients
        self._booster = booster

    @classmethod
    def fit(cls, operators: Sequence[Operator], us: Floats, settings: Settings) -> Regressor:
        """Learn from operators and their latencies in microseconds."""
        # Divided by the latency: an error of 10 % counts the same for short and long ones.
        table = costs(operators) / us[:, np.newaxis]
        scale = np.maximum(table.max(axis=0), 1e-300)
        coefficients = nnls(table / scale, np.ones(len(us)))[0] / scale
        base = costs(operators) @ coefficients
        parameters = {k: v for k, v in settings.items() if k != "rounds"}
        booster = xgboost.train(
            {
                "tree_method": "hist",
                "objective": "reg:squarederror",
                "nthread": 1,
                "seed": SEED,
                **parameters,
            },
            xgboost.DMatrix(features(operators), np.log(us / base)),
            num_boost_round=int(settings["rounds"]),
        )
        return cls(coefficients, booster)

    def predict_us(self, operators: Sequence[Operator]) -> Floats:
        """Latencies in microseconds, each operator alone in a model."""
        base = costs(operators) @ self._coefficients
        left = self._booster.predict(xgboost.DMatrix(features(operators)))
        limit = math.log(MAX_FACTOR)
        found: Floats = base * np.exp(np.clip(left, -limit, limit))
        return found

    def packed(self) -> tuple[list[float], bytes]:
        """What ``unpacked`` makes the regressor of again."""
        return self._coefficients.tolist(), bytes(self._booster.save_raw("ubj"))

    @classmethod
    def unpacked(cls, coefficients: Sequence[float], raw: bytes) -> Regressor:
        """The regressor that was packed; raises what XGBoost raises for other bytes."""
        booster = xgboost.Booster()
        booster.load_model(bytearray(raw))
        return cls(np.array(coefficients, np.float64), booster)


class _Packed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    machine: Machine
    threads: int
    runtime: str
    profile: str
    floor_us: float
    copies: tuple[Copy, ...]
    settings: dict[str, dict[str, float | int]]
    largest_kernels: dict[str, int]
    regressors: dict[str, tuple[list[float], bytes]]


class LatencyModel:
    """Predicts operators and blocks on one kind of box. Make it by ``fit`` or ``load``.

    ``machine``, ``threads``, ``runtime``: of the profile; ``profile_hash``: its SHA-256 in hex.
    ``settings``: of each kind's regressor.
    """

    def __init__(self, packed: _Packed, regressors: Mapping[str, Regressor]) -> None:
        self.machine = packed.machine
        self.threads = packed.threads
        self.runtime = packed.runtime
        self.profile_hash = packed.profile
        self.settings = packed.settings
        self._packed = packed
        self._regressors = dict(regressors)

    @classmethod
    def fit(cls, profile: Profile, settings: Mapping[str, Settings] | None = None) -> LatencyModel:
        """Learn every kind of operator in the profile.

        ``settings`` by kind, such as ``predictors.tuning.tune`` finds; ``default_settings`` for
        the others.
        """
        used = {
            kind: {**default_settings(kind), **(settings or {}).get(kind, {})}
            for kind in profile.kinds
        }
        regressors = {
            kind: Regressor.fit(*learned_from(profile.of_kind(kind)), used[kind])
            for kind in profile.kinds
        }
        packed = _Packed(
            schema=SCHEMA,
            machine=profile.machine,
            threads=profile.threads,
            runtime=profile.runtime,
            profile=hashlib.sha256(encode(profile)).hexdigest(),
            floor_us=profile.floor_us,
            copies=profile.copies,
            settings=used,
            largest_kernels={
                kind: max(_area(t.operator) for t in profile.of_kind(kind))
                for kind in profile.kinds
            },
            regressors={kind: regressor.packed() for kind, regressor in regressors.items()},
        )
        return cls(packed, regressors)

    def predict(self, operators: Sequence[Operator]) -> Floats:
        """Latency of each operator in ms, alone in a model.

        Raises LatencyError for a kind that the profile has no timings of, and for kernels larger
        than any there: they may take quite another, slower way.
        """
        found = np.zeros(len(operators))
        places: dict[str, list[int]] = {}
        for place, operator in enumerate(operators):
            places.setdefault(operator.kind, []).append(place)
        for kind, of_kind in places.items():
            regressor = self._regressors.get(kind)
            if regressor is None:
                raise LatencyError(
                    f"operator {kind!r}: the profile of {self.machine.cpu} has none; it has "
                    f"{', '.join(sorted(self._regressors))}; profile this kind of box again"
                )
            largest = self._packed.largest_kernels[kind]
            for place in of_kind:
                if _area(operators[place]) > largest:
                    raise LatencyError(
                        f"operator {kind!r} with kernel {operators[place].kernel}: the profile has "
                        f"none with more than {largest} places; use the measured latency"
                    )
            found[of_kind] = regressor.predict_us([operators[place] for place in of_kind]) / 1e3
        return found

    def predict_block(self, model: bytes, subject: str = "block") -> float:
        """Latency in ms of a block's ``.tflite`` contents, as an agent measures it.

        Raises ModelError, LatencyError where it has operators that are not known.
        """
        return self.predict_blocks([extract_block(model, subject)])[0]

    def predict_blocks(self, blocks: Sequence[Block]) -> list[float]:
        """Latencies in ms of several blocks: one call, its operators, and the copies."""
        floor_ms = self._packed.floor_us / 1e3
        operators = [operator for block in blocks for operator in block.operators]
        # Each operator was timed with a call of its own.
        alone = np.maximum(self.predict(operators) - floor_ms, 0.0)
        found, start = [], 0
        for block in blocks:
            end = start + len(block.operators)
            found.append(floor_ms + float(alone[start:end].sum()) + self._copied_us(block) / 1e3)
            start = end
        return found

    def _copied_us(self, block: Block) -> float:
        """Into the model and out of it, between the sizes that were timed."""
        copies = self._packed.copies
        sizes = [c.nbytes for c in copies]
        into = np.interp(block.input_bytes, sizes, [c.in_us for c in copies])
        out = np.interp(block.output_bytes, sizes, [c.out_us for c in copies])
        return float(into + out)

    def save(self, path: Path) -> None:
        """Write it to a file: a SHA-256 of the rest, then msgpack."""
        body = msgspec.msgpack.encode(self._packed)
        whole = path.with_name(path.name + ".new")
        whole.write_bytes(hashlib.sha256(body).digest() + body)
        whole.replace(path)

    @classmethod
    def load(cls, path: Path) -> LatencyModel:
        """Read it again. Raises LatencyError naming the file, what is wrong and the remedy."""
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES)
        except OSError as error:
            raise LatencyError(f"{path}: {error.strerror}; fit the model again") from error
        digest, body = raw[:32], raw[32:]
        if hashlib.sha256(body).digest() != digest:
            raise LatencyError(f"{path}: damaged, its hash is another; fit the model again")
        try:
            packed = msgspec.msgpack.decode(body, type=_Packed)
            regressors = {k: Regressor.unpacked(*v) for k, v in packed.regressors.items()}
        except (msgspec.MsgspecError, xgboost.core.XGBoostError) as error:
            raise LatencyError(f"{path}: not a latency model ({error}); fit it again") from error
        if packed.schema != SCHEMA:
            raise LatencyError(f"{path}: schema {packed.schema}, known is {SCHEMA}; fit it again")
        return cls(packed, regressors)


def learned_from(timings: Sequence[Timing]) -> tuple[list[Operator], Any]:
    """Operators and their best latencies in microseconds."""
    return [t.operator for t in timings], np.array([t.best_us for t in timings])
