"""The fields of events: what each is called, its unit and what it says, the same everywhere."""

from __future__ import annotations

import msgspec


class Field(msgspec.Struct, frozen=True):
    """Unit and meaning of a field, the same in every event."""

    unit: str
    meaning: str


FIELDS: dict[str, Field] = {
    "accuracy": Field("fraction", "accuracy to expect of answers, measured; null if unknown"),
    "added": Field("names", "whose keys are known now, and were not"),
    "address": Field("IP address", "where a connection came from"),
    "attempt": Field("count", "how often the request had been sent"),
    "avoided_ms": Field("ms", "for how long the link is not used"),
    "built": Field("time", "when a table of predictions was built, UTC"),
    "bundle": Field("name", "the model that is served"),
    "bytes": Field("bytes", "size of what was fetched"),
    "capacity_per_s": Field("1/s", "requests a second that the plan can answer"),
    "changed": Field("table", "what differs from before, with the new values"),
    "code": Field("word", "why, as a stable word"),
    "closed_by": Field("text", "what keeps the engine's process from the network"),
    "coordinator": Field("endpoint", "the coordinator's agents' port"),
    "decide_ms": Field("ms", "from the evidence being accepted to the decision"),
    "deploy_ms": Field("ms", "from the order to the change"),
    "detect_ms": Field("ms", "from the evidence to the failover's begin"),
    "digest": Field("hex", "the first 16 digits of a bundle's hash"),
    "downtime_ms": Field("ms", "predicted interruption"),
    "away_ms": Field("ms", "how long the agent stays away in a drill"),
    "drain_ms": Field("ms", "from the order to stop to the goodbye"),
    "dropped": Field("count", "messages dropped so far"),
    "endpoints": Field("table", "ports by name"),
    "error_percent": Field("%", "by how much longer work took than the corrected prediction"),
    "exit": Field("name", "the exit that answers, null for the network's end"),
    "factor": Field("times", "what predictions of the node's latencies are multiplied by"),
    "failed": Field("names", "nodes that the plan does without"),
    "fetch_ms": Field("ms", "time it took to fetch"),
    "file": Field("path", "the file in question"),
    "forced": Field("word", "the technique that the configuration asks for"),
    "held": Field("version", "the plan version that the agent obeys"),
    "hop_us": Field("us", "what a run costs because it is in another process"),
    "incarnation": Field("number", "which life of the node; rises with every start"),
    "key": Field("key", "a public key"),
    "kinds": Field("count", "kinds of boxes in the table"),
    "late_ms": Field("ms", "how much later than due the coordinator's loop turned"),
    "latency_ms": Field("ms", "predicted latency of a request"),
    "link": Field("text", "from one node to another: n2>n3"),
    "load_ms": Field("ms", "time it took to load"),
    "lost": Field(
        "count", "requests that had entered by the failed nodes: their clients send them again"
    ),
    "node": Field("name", "the node that is spoken of"),
    "nodes": Field("names", "the nodes that are spoken of"),
    "outage_ms": Field("ms", "from the last sign of life to the last acknowledgement"),
    "outcome": Field("text", "how it ended"),
    "parts": Field("count", "parts of the model"),
    "peer": Field("name", "the node that could not be reached"),
    "predicted_ms": Field("ms", "the interruption that was predicted, beside the measured one"),
    "problem": Field("text", "what is wrong, with the remedy"),
    "realtime": Field("true/false", "heartbeats run with real-time priority"),
    "reason": Field("text", "why"),
    "removed": Field("names", "whose keys are not known any more"),
    "replayed": Field("count", "requests that were sent anew because of it"),
    "request": Field("text", "the request that was being run: its client in hex, its number"),
    "request_class": Field("name", "the class of requests that is spoken of"),
    "restart_ms": Field("ms", "from the death to a fresh process with the parts in memory"),
    "restart_needed": Field("keys", "changed, and taken into account only after a restart"),
    "role": Field("word", "agent or coordinator"),
    "rss_mib": Field("MiB", "resident memory of the daemon"),
    "silence_ms": Field("ms", "from the last sign of life to the evidence of the failure"),
    "socket": Field("word", "the port by its name in the configuration"),
    "suspect_ms": Field("ms", "for how long the node was suspect"),
    "technique": Field("word", "none, repartition, early_exit, skip or mixed"),
    "tell_ms": Field("ms", "from the decision to the last acknowledgement"),
    "threads": Field("names", "working threads of the daemon"),
    "token": Field("word", "the first characters of the token's hash, as token list shows them"),
    "variants": Field("count", "ways to run the network in the table"),
    "version": Field("version", "plan version as TERM.NUMBER; of the program in daemon_started"),
    "violations": Field("keys", "the objectives' thresholds that are broken"),
    "why": Field("text", "why this candidate, in words"),
}
