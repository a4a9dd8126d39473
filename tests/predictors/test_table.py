"""Tables of predictions: written, verified, refused, and used by the coordinator for planning."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from continuer import table as tables
from continuer.bundle import Accuracy, Bundle
from continuer.config import CoordinatorConfig
from continuer.objectives import Objectives
from continuer.table import NodeKind, PredictedAccuracy, Provenance, Table, TableError
from coordinator.accuracies import accuracy_of
from coordinator.planner import NodeFacts, make_step, part_latency_us
from coordinator.predictions import Predictions, TableInUse, read
from coordinator.status import status
from tests.unit.harness import BUNDLE, World
from tests.unit.settings import FIVE, PARTS, setting_of, with_node

COUNT = len(BUNDLE.part_names)
SKIPPED = ("block07", "block08", "block09")


def table_of(**changes: Any) -> Table:
    """Parts take their number plus one in us on ``fast``, ten times that on ``slow``."""
    fast = tuple(float(number + 1) for number in range(COUNT))
    fields: dict[str, Any] = {
        "schema": tables.SCHEMA,
        "bundle": BUNDLE.hash,
        "model": BUNDLE.name,
        "kinds": {"fast": NodeKind(fast), "slow": NodeKind(tuple(10 * us for us in fast))},
        "nodes": {"n1": "slow", "*": "fast"},
        "accuracies": (
            PredictedAccuracy(None, (), 0.85, 0.83, 0.87),
            PredictedAccuracy("exit06", (), 0.75, 0.70, 0.80),
            PredictedAccuracy(None, SKIPPED, 0.80, 0.76, 0.84),
        ),
        "provenance": Provenance("2026-01-01T00:00:00Z", {"continuer": "1"}),
    }
    return Table(**{**fields, **changes})


def unmeasured() -> Bundle:
    """The bundle as if no accuracy had been measured."""
    none = Accuracy("none", "none", 0, ())
    manifest = msgspec.structs.replace(BUNDLE.manifest, accuracy=none)
    return Bundle(BUNDLE.directory, manifest, BUNDLE.hash)


# --- the file -------------------------------------------------------------------------------


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    tables.save(table_of(), tmp_path / "t")
    assert tables.load(tmp_path / "t", BUNDLE) == table_of()
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_any_altered_byte_is_noticed(tmp_path: Path) -> None:
    raw = tables.encode(table_of())
    for place in (0, len(tables.MAGIC) + 3, len(raw) // 2, len(raw) - 1):
        altered = bytearray(raw)
        altered[place] ^= 1
        (tmp_path / "t").write_bytes(altered)
        with pytest.raises(TableError, match=r"not a table|truncated or altered"):
            tables.load(tmp_path / "t")


def test_a_truncated_table_is_refused(tmp_path: Path) -> None:
    raw = tables.encode(table_of())
    for length in (0, 10, len(tables.MAGIC) + 5, len(raw) - 1):
        (tmp_path / "t").write_bytes(raw[:length])
        with pytest.raises(TableError):
            tables.load(tmp_path / "t")


def test_a_missing_table_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="continuer predictors build"):
        tables.load(tmp_path / "t")


def test_a_table_of_another_bundle_is_refused_by_name(tmp_path: Path) -> None:
    tables.save(table_of(), tmp_path / "t")
    other = Bundle(BUNDLE.directory, BUNDLE.manifest, b"\x01" * 32)
    with pytest.raises(TableError, match="made for bundle"):
        tables.load(tmp_path / "t", other)


def test_a_table_of_another_version_is_refused_whatever_else_it_holds() -> None:
    body = msgspec.msgpack.encode({"schema": 99, "news": 1})
    raw = tables.MAGIC + hashlib.sha256(body).digest() + body
    with pytest.raises(TableError, match="schema 99, this version reads 1"):
        tables.decode(raw, "t")


@pytest.mark.parametrize("us", [float("nan"), float("inf"), 0.0, -1.0, 1e12])
def test_latencies_that_cannot_be_are_refused_when_written(tmp_path: Path, us: float) -> None:
    kinds = {"fast": NodeKind((us,) * COUNT)}
    with pytest.raises(TableError, match="a latency of"):
        tables.save(table_of(kinds=kinds, nodes={}), tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    "bounds", [(float("nan"), 0.1, 0.9), (0.5, 0.6, 0.9), (0.5, 0.1, 0.4), (1.2, 0.1, 1.3)]
)
def test_accuracies_outside_of_their_bounds_are_refused(bounds: tuple[float, ...]) -> None:
    table = table_of(accuracies=(PredictedAccuracy(None, (), *bounds),))
    with pytest.raises(TableError, match="accuracy"):
        tables.decode(tables.encode(table), "t")


def test_a_node_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(TableError, match="node 'n9' is of unknown kind 'pi'"):
        tables.decode(tables.encode(table_of(nodes={"n9": "pi"})), "t")


def test_latencies_for_another_number_of_parts_are_refused(tmp_path: Path) -> None:
    tables.save(table_of(kinds={"fast": NodeKind((1.0,))}, nodes={}), tmp_path / "t")
    with pytest.raises(TableError, match=f"the bundle has {COUNT} parts"):
        tables.load(tmp_path / "t", BUNDLE)


def test_a_table_above_a_megabyte_is_not_written() -> None:
    kinds = {f"kind{n}": NodeKind((1.0,) * COUNT) for n in range(5000)}
    with pytest.raises(TableError, match="fewer kinds"):
        tables.encode(table_of(kinds=kinds, nodes={}))


# --- planning -------------------------------------------------------------------------------


def test_a_measured_accuracy_is_used_although_another_is_predicted() -> None:
    predictions = Predictions(table_of())
    assert accuracy_of(BUNDLE, BUNDLE.path(), predictions) == (0.8694, "measured", 0.8694)


def test_what_was_not_measured_is_predicted_and_only_its_lower_bound_is_promised() -> None:
    bundle = unmeasured()
    predictions = Predictions(table_of())
    assert accuracy_of(bundle, bundle.path(SKIPPED), predictions) == (0.80, "predicted", 0.76)
    assert accuracy_of(bundle, bundle.path(SKIPPED)) is None
    for least, broken in ((0.75, False), (0.77, True)):
        setting = setting_of(
            bundle=bundle, predictions=predictions, objectives=Objectives(min_accuracy=least)
        )
        layout = {"n1": tuple(bundle.part_ids[name] for name in bundle.path(SKIPPED))}
        candidate = make_step(setting, layout, "skip")
        assert candidate is not None
        assert candidate.step.accuracy == 0.80
        assert ("min_accuracy" in candidate.problems) is broken
        assert candidate.report()["accuracy_source"] == "predicted"


def test_a_path_of_both_a_skip_and_an_exit_is_estimated_from_predictions() -> None:
    bundle = unmeasured()
    path = bundle.path(skipped=("block02",), exit_name="exit06")
    table = table_of(
        accuracies=(
            *table_of().accuracies,
            PredictedAccuracy(None, ("block02",), 0.68, 0.60, 0.70),
        )
    )
    known = accuracy_of(bundle, path, Predictions(table))
    assert known is not None
    assert known.source == "estimated"
    assert known.accuracy == pytest.approx(0.75 * 0.68 / 0.85)


def test_a_part_that_no_node_has_measured_costs_what_its_kind_is_predicted_to() -> None:
    setting = setting_of(predictions=Predictions(table_of()))
    slow, fast = setting.nodes[0], setting.nodes[1]
    assert part_latency_us(setting, slow, 4) == 50
    assert part_latency_us(setting, fast, 4) == 5
    # Without a table, or a kind, the builder's figure.
    assert part_latency_us(setting_of(), slow, 4) == PARTS[4].latency_us
    nobody = setting_of(predictions=Predictions(table_of(nodes={"n9": "fast"})))
    assert part_latency_us(nobody, slow, 4) == PARTS[4].latency_us


def test_predictions_are_scaled_by_what_the_node_has_measured() -> None:
    setting = with_node(setting_of(predictions=Predictions(table_of())), "n2", latency_us={0: 3.0})
    node = setting.nodes[1]
    assert part_latency_us(setting, node, 0) == 3
    assert part_latency_us(setting, node, 4) == 15


def test_a_latency_counts_as_measured_only_if_every_part_was() -> None:
    setting = setting_of(predictions=Predictions(table_of()))
    predicted = make_step(setting, FIVE, "none")
    every = dict.fromkeys(range(COUNT), 100.0)
    timed = msgspec.structs.replace(
        setting,
        nodes=tuple(NodeFacts(n.name, n.incarnation, latency_us=every) for n in setting.nodes),
    )
    measured = make_step(timed, FIVE, "none")
    assert predicted is not None
    assert measured is not None
    assert predicted.sources["latency_source"] == "predicted"
    assert measured.sources == {"accuracy_source": "measured", "latency_source": "measured"}


# --- what the coordinator does with a file ----------------------------------------------------


def test_a_good_table_is_used_and_said_to_be(tmp_path: Path) -> None:
    tables.save(table_of(), tmp_path / "t")
    in_use, event = read(str(tmp_path / "t"), BUNDLE)
    assert in_use.predictions is not None
    assert in_use.report()["in_use"] is True
    assert (event.name, event.fields["variants"]) == ("table_loaded", 3)


def test_a_table_that_cannot_be_used_stops_nothing_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"nonsense")
    in_use, event = read(str(tmp_path / "t"), BUNDLE)
    assert in_use.predictions is None
    assert "not a table" in in_use.report()["problem"]
    assert event.name == "table_refused"
    assert "not a table" in event.fields["problem"]


def test_without_a_table_it_is_said_that_there_is_none() -> None:
    in_use, event = read(None, BUNDLE)
    assert in_use == TableInUse()
    assert event.name == "table_absent"
    assert CoordinatorConfig(bundle="b", nodes=("n1",)).tables is None


def test_the_status_tells_measured_from_predicted(tmp_path: Path) -> None:
    world = World()
    tables.save(table_of(), tmp_path / "t")
    world.core.planning.table, _ = read(str(tmp_path / "t"), BUNDLE)
    world.form()
    state = status(world.core, world.now, brief=False)
    assert state["predictions"]["in_use"] is True
    assert state["plan"]["accuracy_source"] == "measured"
    assert state["plan"]["latency_source"] == "measured"
    sources = {c["accuracy_source"] for d in state["contingencies"] for c in d["candidates"]}
    assert sources == {"measured", "estimated"}
