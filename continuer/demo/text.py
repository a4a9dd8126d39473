"""The report of a demo run as text for people."""

from __future__ import annotations

from typing import Any


def describe(report: dict[str, Any], records: list[dict[str, Any]], returned: list[str]) -> str:
    """A screen of text: requests, each failover with its candidates, accuracy, latency."""
    requests = report["requests"]
    lines = [
        "",
        f"{report['model']} on {report['nodes']} nodes, {report['rate_per_s']:g} requests/s",
        "requests   " + "  ".join(f"{key} {value}" for key, value in requests.items()),
        (
            f"latency    p50 {number(report['latency_ms']['p50'])} ms, "
            f"p99 {number(report['latency_ms']['p99'])} ms; "
            f"{number(report['throughput_per_s'])} answers/s"
        ),
    ]
    share = report["accuracy"]
    lines.append(
        "accuracy   "
        + ", ".join(f"{when} {percent(share[when])}" for when in ("before", "degraded", "healed"))
        + "  (measured on the images sent)"
    )
    for failover in report["failovers"]:
        lines += failover_lines(failover, records)
    if returned:
        lines.append(f"taken back in: {', '.join(returned)}")
    return "\n".join(lines)


def failover_lines(failover: dict[str, Any], records: list[dict[str, Any]]) -> list[str]:
    """One failover: what was done, how long each part took, what else was considered."""
    names = ", ".join(failover["nodes"])
    fault = {"kill": "killed (SIGKILL)", "stop": "stopped (SIGSTOP)"}[failover["fault"]]
    lines = ["", f"{names} {fault}: outage {number(failover['outage_ms'])} ms at the client"]
    lines.append(
        "  fault -> "
        + " -> ".join(
            f"{what} {number(failover[key])}"
            for what, key in (
                ("evidence", "silence_ms"),
                ("detect", "detect_ms"),
                ("decide", "decide_ms"),
                ("tell", "tell_ms"),
            )
        )
        + f" ms; first good answer after {number(failover['first_good_answer_ms'])} ms; "
        f"{failover['replayed'] or 0} replayed"
    )
    lines += [
        f"  step {i}: {step['technique']}{' ' + step['exit'] if step['exit'] else ''} "
        f"in force after {number(step['at_ms'])} ms"
        for i, step in enumerate(failover["steps"], start=1)
    ]
    lines += [f"  why: {r['why']}" for r in records if set(r["nodes"]) & set(failover["nodes"])][:1]
    if failover["candidates"]:
        lines.append(
            f"  {'candidate':<22}{'accuracy':>9}{'latency':>10}{'downtime':>10}"
            f"{'capacity':>10}{'score':>8}"
        )
        lines += [
            f"  {c['technique'] + ' ' + (c['exit'] or ''):<22}{percent(c['accuracy']):>9}"
            f"{c['latency_ms']:>7.2f} ms{c['downtime_ms']:>7.2f} ms"
            f"{c['capacity_per_s']:>8.0f}/s{c['score']:>8.3f}"
            f"{'' if c['feasible'] else '  infeasible'}"
            for c in failover["candidates"]
        ]
    return lines


def percent(fraction: float | None) -> str:
    """``86.94 %``, or a dash where nothing was measured."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def number(value: float | None) -> str:
    """A figure, or a dash where nothing was measured."""
    return "-" if value is None else f"{value:g}"
