"""Draws a raw log as SVG: every request of a real run, before, through and after a fault.

python -m bench.picture RAW_LOG docs/failover.svg
"""

from __future__ import annotations

import argparse
from pathlib import Path

from continuer.outage import RawLog, RequestRecord, outage_ms, read

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 340, 60, 46, 50
SPAN_MS = (-250.0, 450.0)
COLOURS = {
    "none": ("#2f6fde", "full plan"),
    "skip": ("#e08a00", "skip (degraded)"),
    "early_exit": ("#b03ad6", "early exit (degraded)"),
    "repartition": ("#17914f", "repartition (full accuracy)"),
}


def draw(log: RawLog) -> str:
    """The SVG's text: completion delay of each request over its intended send time."""
    fault = log.faults[0]
    at_ns = fault["at_ns"]
    near = [
        r
        for r in log.requests
        if r.done_ns is not None and SPAN_MS[0] <= (r.intended_ns - at_ns) / 1e6 <= SPAN_MS[1]
    ]
    top_ms = max(20.0, 1.15 * max(delay_ms(r) for r in near))

    def x(ms: float) -> float:
        return LEFT + (ms - SPAN_MS[0]) / (SPAN_MS[1] - SPAN_MS[0]) * (WIDTH - LEFT - 20)

    def y(ms: float) -> float:
        return HEIGHT - BOTTOM - ms / top_ms * (HEIGHT - TOP - BOTTOM)

    nodes = ", ".join(fault["nodes"])
    outage = outage_ms(log.requests, at_ns)
    signal = {"kill": "SIGKILL", "stop": "SIGSTOP", "link_down": "its cable cut"}[fault["fault"]]
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        (
            f'<text x="{LEFT}" y="20" font-size="15">{nodes} gets {signal}: outage '
            f"{outage:.1f} ms, {lost(log)} of {len(log.requests)} requests lost</text>"
        ),
    ]
    for ms in range(0, int(top_ms) + 1, 5):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y(ms):.1f}" y2="{y(ms):.1f}" '
                     'stroke="#ddd"/>')  # fmt: skip
        parts.append(f'<text x="{LEFT - 8}" y="{y(ms) + 4:.1f}" text-anchor="end">{ms}</text>')
    parts += [
        f'<text x="{x(ms):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{ms}</text>'
        for ms in range(int(SPAN_MS[0]), int(SPAN_MS[1]) + 1, 50)
    ]
    parts += [
        (
            f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
            'stroke="#d33" stroke-width="2"/>'
        ),
        (
            f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">intended send time, ms '
            "after the fault</text>"
        ),
        (
            f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" '
            f'transform="rotate(-90 14 {HEIGHT / 2})">time to the answer, ms</text>'
        ),
    ]
    parts += [
        f'<circle cx="{x((r.intended_ns - at_ns) / 1e6):.1f}" cy="{y(delay_ms(r)):.1f}" r="3.5" '
        f'fill="{COLOURS[r.technique or "none"][0]}"/>'
        for r in near
    ]
    seen = {r.technique or "none" for r in near}
    for i, (colour, name) in enumerate(COLOURS[t] for t in COLOURS if t in seen):
        parts.append(f'<circle cx="{LEFT + 6 + 210 * i}" cy="36" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 15 + 210 * i}" y="40">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def delay_ms(record: RequestRecord) -> float:
    """Completion minus intended send time."""
    assert record.done_ns is not None
    return (record.done_ns - record.intended_ns) / 1e6


def lost(log: RawLog) -> int:
    """Requests without a good outcome."""
    return sum(r.outcome != "ok" for r in log.requests)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw_log", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    options.picture.write_text(draw(read(options.raw_log)))
