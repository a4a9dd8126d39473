"""A model of others runs on a cluster and survives the death of a node, without any labels."""

from __future__ import annotations

import json
from pathlib import Path

from continuer.bundle import load
from continuer.cli import main
from continuer.errors import EXIT_OK
from tests.integration.support import cli
from tests.models import tiny


def test_several_quantised_tensors_cross_between_boxes(tmp_path: Path) -> None:
    """One block pools, the next adds: the input and the pooled values travel, uint8 both."""
    (tmp_path / "model.tflite").write_bytes(tiny.quantised_residual())
    out = tmp_path / "model"
    command = ["model", "import", str(tmp_path / "model.tflite"), f"--out={out}", "--nodes=2"]
    assert main(command) == EXIT_OK
    crossing = load(out).manifest.parts[0].outputs
    assert [(t.dtype, t.zero_point) for t in crossing] == [("uint8", tiny.ENTERS[1])] * 2
    ended = cli("demo", f"--model={out}", "--nodes=2", "--seconds=6", "--rate=40", "--json")
    report = json.loads(ended.stdout)
    requests = report["requests"]
    assert requests["full"] == requests["sent"] == 240
    assert requests["wrong"] == requests["error"] == requests["lost"] == 0
    (failover,) = report["failovers"]
    assert failover["nodes"] == ["n2"]
    assert [step["technique"] for step in failover["steps"]] == ["repartition"]
    assert all(candidate["accuracy"] is None for candidate in failover["candidates"])
    assert report["accuracy"] == {"before": None, "degraded": None, "healed": None}
    assert ended.returncode == EXIT_OK
