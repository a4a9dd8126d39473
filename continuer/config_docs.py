"""What every key of both configurations means, and the texts that are made of it.

``continuer config sample`` and ``docs/configuration.md`` are printed from these tables; a test
compares them with the keys that there are. Defaults and types are taken from the code.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from continuer.config import AgentConfig, CoordinatorConfig, LinkConfig
from continuer.config_sources import Setting
from continuer.objectives import ClassObjectives, DeploymentObjectives

WIDTH = 98


class Key(msgspec.Struct, frozen=True):
    """One key: what it is, in which unit, by which formula, and what a change costs.

    ``example``: its value in a sample, where it has no default or none that is of use there.
    """

    meaning: str
    unit: str = ""
    formula: str = ""
    trade_off: str = ""
    example: Any = None


class Table(msgspec.Struct, frozen=True):
    """A table of a file: ``path`` is empty for its top; ``head`` is its line in TOML."""

    head: str
    kind: type[msgspec.Struct]
    keys: Mapping[str, Key]
    path: tuple[str, ...] = ()
    optional: bool = False


_CLUSTER = Key(
    "Name of the cluster. Messages of another cluster are dropped.",
    "name",
    trade_off="One name per installation keeps a test cluster out of production.",
)
_BUNDLE = Key(
    "Directory of the network; copies on agents are the same, byte for byte. What "
    "'continuer deploy' puts in force is served instead, until this names another one.",
    "path",
    example="/var/lib/continuer/bundles/resnet32-cifar10",
)
_OWN_BUNDLE = Key(
    "Directory of the network; left out, the coordinator's is fetched into state_dir.",
    "path",
    trade_off="A copy starts without the network; what is fetched is always the right one.",
    example="/var/lib/continuer/bundles/resnet32-cifar10",
)
_LISTEN = Key(
    "Address of this box to listen at; 0.0.0.0 for all of them.",
    "IP address",
    trade_off="Every address is one more that strangers may reach.",
)
_REALTIME = Key(
    "Let heartbeats run with real-time priority where the system permits it (LimitRTPRIO=1).",
    "true/false",
    trade_off="On a busy box the largest gaps shrink to a third, so the timeout may be shorter. "
    "Without the permission all works, but needs a longer heartbeat_timeout_ms there.",
)
_LOG_LEVEL = Key(
    "Events less severe than this are not written. Taken anew on SIGHUP.",
    "debug, info, warning, error or critical",
    trade_off="Above info, the journal no longer says when a node came back.",
)
_TRANSFER = Key(
    "How much of a bundle's files is moved from and to this box, each; without it, all it can.",
    "MiB/s",
    trade_off="Leaves a narrow link to the requests, but a box that fetches is useful later.",
    example=20,
)
_STATE_DIR = Key(
    "Directory for what has to outlive a restart.",
    "path",
    trade_off="Without one, orders and plan versions are forgotten when the daemon ends, and no "
    "other bundle can be deployed.",
    example="/var/lib/continuer",
)


_SECURITY = Key(
    "Whether everyone needs a key: on, off, or auto, which is on where there is a key in "
    "state_dir/keys. Without one, auto listens at loopback only. docs/security.md.",
    "word",
    trade_off="off: whoever reaches a port may send work, read answers and give orders.",
)


def _metrics(port: int) -> Key:
    return Key(
        "Where Prometheus may read /metrics, and others /healthz and /readyz; off if left out.",
        "HOST:PORT",
        trade_off="Whoever reaches the port can read it: keep to 127.0.0.1 or a network of "
        "operators. A scrape takes about a millisecond of a thread of low priority.",
        example=f"127.0.0.1:{port}",
    )


AGENT: dict[str, Key] = {
    "node": Key("This box's name, one of 'nodes' in coordinator.toml.", "name", example="n1"),
    "bundle": _OWN_BUNDLE,
    "coordinator": Key(
        "The coordinator's address and agents_port.", "endpoint", example="tcp://10.0.0.1:7400"
    ),
    "cluster": _CLUSTER,
    "listen": _LISTEN,
    "advertise": Key(
        "The address that peers and clients dial; 'listen' if left out.",
        "host name or address",
        trade_off="Needed where listen is 0.0.0.0, or behind address translation.",
    ),
    "ingress_port": Key("Where clients connect; 0 lets the system choose.", "port"),
    "data_port": Key("Where tensors of other boxes arrive; 0 lets the system choose.", "port"),
    "answers_port": Key("Where last stages send answers; 0 lets the system choose.", "port"),
    "store_port": Key("Where others fetch parts of the bundle; 0 lets the system choose.", "port"),
    "transfer_mib_per_s": _TRANSFER,
    "standby": Key(
        "Which parts are kept in memory beyond the box's own: all; neighbours, what the boxes "
        "before and behind run; none, only what the bridge of any single failure needs.",
        "all, neighbours or none",
        trade_off="More in memory: no loading after a failure. Less: small boxes can take part, "
        "and a failover may bridge with a degraded answer while parts load.",
    ),
    "memory_mib": Key(
        "What parts may take; no limit if left out.",
        "MiB",
        formula="sum of memory_bytes of the loaded parts <= memory_mib * 2^20",
        trade_off="Too little: fewer failures can be answered by repartition.",
    ),
    "engine": Key(
        "Where the network runs: own_process, a child with limits and without network, of which a "
        "crash or a hang costs one request one attempt; in_process, the agent itself; auto, a "
        "child for networks that 'continuer model train' has not made (Linux only).",
        "auto, in_process or own_process",
        trade_off="A child costs every hop two changes between processes (docs/measurements.md) "
        "and the memory of a second Python.",
    ),
    "engine_memory_mib": Key(
        "What the engine's process may use for the network, beyond what it has at its start; "
        "left out, it follows from the bundle.",
        "MiB",
        formula="left out: 256 + 2 * sum of memory_bytes of all parts / 2^20",
        trade_off="Too little: parts cannot be loaded, or an inference kills the process.",
        example=512,
    ),
    "engine_deadline_ms": Key(
        "An inference in the engine's process that takes longer is ended, with the process.",
        "ms",
        formula="at least 8 times what the parts took when they were loaded",
        trade_off="Shorter: a hang costs less. Longer: a busy box is not taken for a hung one.",
    ),
    "heartbeat_ms": Key(
        "Time between two signs of life to the coordinator.",
        "ms",
        formula="the coordinator's heartbeat_timeout_ms should be at least 3 * heartbeat_ms. A "
        "beacon (UDP) goes out so often; while the coordinator hears them, a heartbeat on the link "
        "only every max(heartbeat_ms, 100 ms, N / 2,000 s) for N nodes, else every "
        "max(heartbeat_ms, N / 5,000 s)",
        trade_off="Shorter: silence is detected sooner, for more packets and wake-ups. Closed "
        "links and refused connections are seen at once whatever it is.",
    ),
    "max_inflight": Key(
        "Requests that this ingress keeps at once; the next one gets the error 'busy'.",
        "count",
        formula="at rate r and latency l about r * l requests are under way",
        trade_off="More: a longer queue, and later answers, when the network is too slow.",
    ),
    "max_inflight_mib": Key(
        "What the inputs of those requests may take.",
        "MiB",
        trade_off="Inputs are kept until their outcome, since they may have to be sent again.",
    ),
    "resend_after_ms": Key(
        "A request without an outcome is sent once more after this.",
        "ms",
        trade_off="Shorter: lost work is noticed sooner; shorter than a slow answer takes, it "
        "doubles the work.",
    ),
    "drain_timeout_s": Key(
        "How long an agent that is told to stop waits until others do its work.",
        "s",
        trade_off="At 0 it stops at once and its requests are answered as after a failure.",
    ),
    "realtime": _REALTIME,
    "log_level": _LOG_LEVEL,
    "metrics": _metrics(9465),
    "state_dir": _STATE_DIR,
    "security": _SECURITY,
    "trusted_keys": Key(
        "Who signs bundles: where keys are used, this box runs only what one of these has signed. "
        "'continuer model keygen' prints them.",
        "public keys",
        trade_off="Whoever has one of the signing keys decides what this box computes.",
    ),
    "development": Key(
        "Run unsigned bundles although keys are used.",
        "true/false",
        trade_off="true: whoever can write the bundle's files decides what this box computes.",
    ),
    "slowdown": Key(
        "How many times as long everything takes here: a slower box, for evaluations only.",
        "factor",
        trade_off="Every answer waits for nothing; leave it at 1 where answers are wanted.",
    ),
}

COORDINATOR: dict[str, Key] = {
    "bundle": _BUNDLE,
    "nodes": Key(
        "Who may join, in the order in which the network passes through the boxes; at most 200.",
        "names",
        trade_off="Boxes that are near each other should be neighbours.",
        example=["n1", "n2", "n3", "n4", "n5"],
    ),
    "cluster": _CLUSTER,
    "deployment": Key("Name of what is served; in every answer and plan.", "name"),
    "listen": _LISTEN,
    "agents_port": Key(
        "Where agents connect (TCP), and send their beacons (UDP).",
        "port",
        trade_off="Where a firewall lets only TCP through, heartbeats on the links have to do: "
        "lost packets then delay them by 200 ms and more, so give a longer heartbeat_timeout_ms.",
    ),
    "control_port": Key("Where the operator's command connects.", "port"),
    "join_port": Key(
        "Where a new box brings its token; closed to all while no token is open, and without "
        "keys it is not opened at all.",
        "port",
    ),
    "store_port": Key("Where agents fetch the bundle, if they have none.", "port"),
    "transfer_mib_per_s": _TRANSFER,
    "state_dir": _STATE_DIR,
    "security": _SECURITY,
    "heartbeat_timeout_ms": Key(
        "A node that is silent for this long is suspect, and its work moves.",
        "ms",
        formula="timeout = max(heartbeat_timeout_ms, g * largest gap, (k + 1) * heartbeat_ms), at "
        "most 10 * heartbeat_timeout_ms, of what was seen in the last 5 to 10 s: g = 1.5, and 3 "
        "where gaps beyond half of it came 20 times; k is 0 while no beacon is lost, else the "
        "least with p^k <= 10^-8 for a share p of lost ones, taken two standard deviations high. "
        "For N > 50 nodes without beacons also 3 * N / 5,000 s",
        trade_off="Shorter: less outage where a box hangs or its network is cut. Too short: a "
        "busy box is taken for a dead one, and work moves for nothing.",
    ),
    "dead_after_ms": Key(
        "A node that is silent for this long is dead and must return by return_stable_ms.",
        "ms",
        formula="dead_after_ms >= heartbeat_timeout_ms",
        trade_off="Work has moved long before; this only decides how carefully it comes back.",
    ),
    "return_stable_ms": Key(
        "How long a node that was dead must be well before it gets work again.",
        "ms",
        trade_off="Shorter: full accuracy sooner. Longer: a box that keeps failing does less harm.",
    ),
    "form_timeout_ms": Key(
        "How long the first plan waits for all nodes after the first one has joined.",
        "ms",
        trade_off="Longer: fewer changes of plan after a cold start; nothing is answered before.",
    ),
    "technique": Key(
        "Which technique answers failures; auto takes the best by the objectives.",
        "auto, repartition, early_exit or skip",
        trade_off="Forcing one is for measurements: another may be better, and is taken anyway "
        "where the forced one is impossible.",
    ),
    "expected_rate_per_s": Key(
        "Requests a second to plan for until the real rate is known.",
        "1/s",
        formula="a plan is feasible while rate <= max_utilisation * capacity",
        trade_off="Too high: techniques that would do are held infeasible.",
    ),
    "hop_us": Key(
        "What passing tensors to the next box costs.",
        "us",
        formula="latency = sum of part latencies + hops * hop_us",
        trade_off="Only predictions depend on it, and with them the choice between techniques.",
    ),
    "max_utilisation": Key(
        "Share of the slowest stage's capacity that may be used.",
        "fraction",
        formula="capacity = 1 / time of the slowest stage",
        trade_off="Nearer to 1: more requests per box, and queues that grow without bound at 1.",
    ),
    "realtime": _REALTIME,
    "log_level": _LOG_LEVEL,
    "metrics": _metrics(9464),
    "tables": Key(
        "Predictions for what was not measured, as 'continuer predictors build' wrote them.",
        "path",
        trade_off="Without one, what was not measured is estimated more coarsely. One for another "
        "bundle is refused, and all goes on as without.",
        example="/var/lib/continuer/fleet.table",
    ),
    "objectives": Key("What decides after a failure; see the table [objectives].", "table"),
    "links": Key("Links that differ from the others; see the tables [[links]].", "tables"),
}

_WEIGHTS = "score = weight_accuracy * A / A_full - weight_latency * max(1, L / L_full) "
_WEIGHTS += "- weight_downtime * D / 50 ms"
_SHARE = "Only the proportions of the three weights matter."

OBJECTIVES: dict[str, Key] = {
    "min_accuracy": Key(
        "Least accuracy that is wanted; no limit if left out.",
        "fraction",
        trade_off="Thresholds come before weights: a candidate that breaks one is taken only "
        "where none keeps them all.",
    ),
    "max_latency_ms": Key("Largest latency that is wanted; no limit if left out.", "ms"),
    "max_downtime_ms": Key("Largest interruption that is wanted; no limit if left out.", "ms"),
    "weight_accuracy": Key("Weight of accuracy.", "number", formula=_WEIGHTS, trade_off=_SHARE),
    "weight_latency": Key("Weight of latency.", "number", formula=_WEIGHTS, trade_off=_SHARE),
    "weight_downtime": Key("Weight of downtime.", "number", formula=_WEIGHTS, trade_off=_SHARE),
    "optimise": Key(
        "What blocks are placed for: requests a second, or the latency of one request.",
        "throughput or latency",
        trade_off="latency uses as few boxes as the rate allows: the fewer, the more one loses.",
    ),
    "class": Key("Objectives of a class of requests; see the tables below.", "tables"),
}

CLASS: dict[str, Key] = {
    **{
        key: msgspec.structs.replace(OBJECTIVES[key], formula="", trade_off="")
        for key in OBJECTIVES
        if key != "class"
    },
    "redundancy": Key(
        "2 sends each request of the class along two routes that share no node.",
        "1 or 2",
        trade_off="A failure costs such a request nothing; each is computed twice.",
    ),
}

LINKS: dict[str, Key] = {
    "between": Key("The two nodes, in either direction.", "names", example=["n1", "n2"]),
    "hop_us": Key("Cost of a hop between them, instead of the usual hop_us.", "us"),
    "mbit_per_s": Key(
        "Rate of the link.",
        "Mbit/s",
        formula="hop = hop_us + 8 * bytes / mbit_per_s (in us)",
        trade_off="Left out, the size of tensors is taken to cost nothing.",
    ),
}

TABLES: dict[str, tuple[Table, ...]] = {
    "agent": (Table("", AgentConfig, AGENT),),
    "coordinator": (
        Table("", CoordinatorConfig, COORDINATOR),
        Table("[objectives]", DeploymentObjectives, OBJECTIVES, ("objectives",)),
        Table("[objectives.class.alarm]", ClassObjectives, CLASS, optional=True),
        Table("[[links]]", LinkConfig, LINKS, optional=True),
    ),
}


def sample(role: str) -> str:
    """A whole configuration with every key explained; what is a default is commented out."""
    lines = [
        f"# {role}.toml: what 'continuer config sample {role}' prints. Lines with '#' in front of",
        "# a key show its default. 'continuer config check FILE' says what is wrong with a file.",
    ]
    for table in TABLES[role]:
        mark = "# " if table.optional else ""
        lines += ["", f"{mark}{table.head}"] if table.head else []
        for key, field in _keys(table):
            lines += ["", *_comment(table.keys[key])]
            value, shown = _sample_value(table.keys[key], field)
            lines.append(f"{mark if shown else '# '}{key} = {value}")
    return "\n".join(lines) + "\n"


def _keys(table: Table) -> Iterator[tuple[str, Any]]:
    """The keys of a table that hold values, not further tables."""
    for field in msgspec.structs.fields(table.kind):
        if table.keys[field.encode_name].unit not in ("table", "tables"):
            yield field.encode_name, field


def _comment(key: Key) -> list[str]:
    formula = f"Formula: {key.formula}" if key.formula else ""
    texts = [f"{key.meaning} ({key.unit})", formula, key.trade_off]
    return [f"# {line}" for text in texts for line in textwrap.wrap(text, WIDTH)]


def _sample_value(key: Key, field: Any) -> tuple[str, bool]:
    """A key's value in a sample as TOML, and whether it is set there."""
    if key.example is not None:
        return json.dumps(key.example), True
    default = _default(field)
    return ("...", False) if default is None else (json.dumps(default), False)


def _default(field: Any) -> Any:
    """A key's default; None where there is none, or where it means that the key is left out."""
    default = field.default
    return None if default in (msgspec.NODEFAULT, msgspec.UNSET) else default


def reference() -> str:
    """``docs/configuration.md``."""
    lines = [
        "# Configuration",
        "",
        "Printed from `continuer/config_docs.py` by `make docs`; change it there.",
        "",
        "Values come from `agent.toml` or `coordinator.toml`, then from the files of `agent.d/` or",
        "`coordinator.d/` beside it in the order of their names, then from the environment, then",
        "from the daemon's flags; what comes later wins. `continuer config sample agent` prints a",
        "file with all keys, `continuer config check FILE` says what is wrong with one.",
    ]
    for role, tables in TABLES.items():
        for table in tables:
            lines += ["", f"## {role}.toml{': ' + table.head if table.head else ''}"]
            for key, field in _keys(table):
                lines += ["", f"### `{key}`", "", *_entry(table, key, field)]
    return "\n".join(lines) + "\n"


def _entry(table: Table, name: str, field: Any) -> Iterator[str]:
    key = table.keys[name]
    default = "required" if field.required else f"default `{json.dumps(_default(field))}`"
    if not field.required and _default(field) is None:
        default = "left out by default"
    how = [f"{key.unit}, {default}"]
    if not table.optional:
        setting = Setting((*table.path, name), field.type)
        how.append(f"`{setting.variable}`, `{setting.flag}`")
    yield "; ".join(how)
    yield ""
    yield key.meaning
    for title, text in (("Formula", key.formula), ("Trade-off", key.trade_off)):
        if text:
            yield ""
            yield f"{title}: `{text}`" if title == "Formula" else f"{title}: {text}"
