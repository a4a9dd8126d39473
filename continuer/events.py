"""The catalogue of events: what both daemons say of themselves, and what to do about it.

Names, fields and message identifiers are a public interface: operators alert on them. An
identifier never changes and is never used again (``tests/unit/events_golden.json``); give a new
event one of its own with ``python3 -c 'import uuid; print(uuid.uuid4().hex)'``. Nothing can be
emitted that is not listed here. ``docs/events.md`` is printed from this table.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Level = Literal["info", "warning", "error", "critical"]


class Event(msgspec.Struct, frozen=True):
    """An event as deciding code returns it; the shell writes it with ``Journal.emit``."""

    name: str
    fields: dict[str, Any]


class Kind(msgspec.Struct, frozen=True):
    """What is known of an event beforehand.

    ``message_id``: 128 bits in hex, journald's MESSAGE_ID. ``remedy``: what an operator does.
    ``failure``: part of the story of a failure, shown by ``continuer logs --failures``.
    """

    message_id: str
    level: Level
    fields: frozenset[str]
    meaning: str
    remedy: str
    failure: bool


def _kind(
    message_id: str, level: Level, fields: str, meaning: str, remedy: str, *, failure: bool = False
) -> Kind:
    return Kind(message_id, level, frozenset(fields.split()), meaning, remedy, failure)


# What journald calls a field where the bare name would say too little.
JOURNAL_NAMES = {"event": "CONTINUER_EVENT", "version": "PLAN_VERSION"}


def journal_name(field: str) -> str:
    """A field's name in journald: capitals, and plain names with what they belong to."""
    return JOURNAL_NAMES.get(field, field.upper())


EVENTS: dict[str, Kind] = {
    # both daemons
    "daemon_started": _kind(
        "535dd238065f4ccfb6cfa09af41e9a2d",
        "info",
        "role endpoints bundle version realtime",
        "The daemon listens.",
        "Nothing. Where realtime is false on a busy box, see LimitRTPRIO in the unit.",
    ),
    "daemon_stopped": _kind(
        "cc41bde682f04dcbb99980a0be59a9e6",
        "info",
        "role reason",
        "The daemon ends on purpose.",
        "Nothing after an order to stop. Where the reason is a thread that ended, send a bug "
        "report: it is a defect.",
    ),
    "foreign_bytes": _kind(
        "9f8da39de38f425e931dde2bfdda6ae9",
        "warning",
        "socket problem dropped",
        "Bytes that are no message of this cluster were dropped.",
        "Find out who sends to this port: a port scanner, another version or another cluster. "
        "The service is not affected.",
    ),
    "key_refused": _kind(
        "c7eebf1a545c41899beb7312036e4d2f",
        "warning",
        "socket address key dropped",
        "A connection with a key that nobody knows, or that may not use this port, was refused.",
        "Find out who it is: a box that has not joined, one that was revoked, or a stranger.",
    ),
    "message_refused": _kind(
        "7f5c3e7522084431862a98334933f6ef",
        "warning",
        "socket node problem dropped",
        "A known peer said what its role or its name does not allow.",
        "Find out why; where its box cannot be trusted, continuer node revoke.",
    ),
    "keys_changed": _kind(
        "45ca03606916449f837649d7e9e58d9b",
        "info",
        "added removed",
        "The keys that are known here have changed.",
        "Nothing, if somebody enrolled or revoked them.",
    ),
    "reloaded": _kind(
        "d6015082f87b4dacb25de2e653662e34",
        "info",
        "changed restart_needed",
        "The configuration file was read anew.",
        "Restart the daemon where restart_needed names keys that were changed.",
    ),
    "reload_refused": _kind(
        "cb1d9965cd1a4a209444686074aea3d7",
        "error",
        "problem",
        "The configuration file is wrong; the one before stays in force.",
        "Do what the problem says, then reload again.",
    ),
    "thread_hung": _kind(
        "e9df16bb366f49e9864453b685223e40",
        "error",
        "threads",
        "Working threads stand still: the box keeps silent, so that others do its work.",
        "If it lasts, systemd's watchdog restarts the daemon: send a bug report with the stacks "
        "that follow in the journal.",
        failure=True,
    ),
    # agent
    "joined": _kind(
        "67bd30f8eb564048863b2bd291b618d8",
        "info",
        "coordinator",
        "The coordinator has taken this agent in.",
        "Nothing.",
    ),
    "join_refused": _kind(
        "85e81496d0cf411b9bc587d370e41b22",
        "error",
        "code problem",
        "The coordinator turned this agent away.",
        "Do what the problem says: the same cluster, bundle and version on both sides, and the "
        "node's name in coordinator.toml.",
        failure=True,
    ),
    "coordinator_lost": _kind(
        "f3bad928b0f840e69a1bc0f382264327",
        "warning",
        "coordinator",
        "No link to the coordinator; requests go on by the plan held.",
        "Start the coordinator again or mend the network: until then no other failure is answered.",
        failure=True,
    ),
    "parts_loaded": _kind(
        "d82feb00f3b64ac094a2b5ba166cf3f2",
        "info",
        "parts load_ms rss_mib",
        "Parts came into memory.",
        "Nothing.",
    ),
    "parts_fetched": _kind(
        "6c9bc4943cb34e8dbc6d149fd71cf9d4",
        "info",
        "parts bytes fetch_ms",
        "Parts came from other boxes.",
        "Nothing.",
    ),
    "bundle_staged": _kind(
        "e1cf102195ab487cbcf7cdcde4ed29f7",
        "info",
        "bundle digest",
        "Another bundle is held ready beside the running one.",
        "Nothing.",
    ),
    "bundle_refused": _kind(
        "f44bb4ac973340c2a6b4f26e8a6da052",
        "error",
        "digest problem",
        "An offered bundle cannot be run here; what runs goes on.",
        "Do what the problem says, then deploy again.",
        failure=True,
    ),
    "bundle_switched": _kind(
        "f8315cee499f462fa4b126b7a93b9abd",
        "info",
        "bundle digest version",
        "From now on requests go by this bundle here.",
        "Nothing. Those that were on their way are answered by the one before.",
    ),
    "bundle_awaited": _kind(
        "384750382b07457ea0239fe627dd4493",
        "warning",
        "coordinator problem",
        "This agent does not know yet what to run.",
        "Bring the coordinator up, or give the agent a bundle of its own.",
        failure=True,
    ),
    "parts_failed": _kind(
        "939fb2463ae34a2f9a30335accfc40a8",
        "error",
        "parts problem",
        "Parts could not be loaded; the plan does without them here.",
        "Do what the problem says, often raise memory_mib or copy the bundle anew, then restart "
        "the agent.",
        failure=True,
    ),
    "engine_started": _kind(
        "44ae88ad93f347b8a6d0a24d70ce5799",
        "info",
        "closed_by hop_us",
        "The network runs in a process of its own, which cannot reach any other.",
        "Nothing.",
    ),
    "engine_exposed": _kind(
        "a27b98fadee84d10bfe35899b67cb953",
        "warning",
        "problem",
        "The engine's process has limits, but nothing keeps it from the network.",
        "Do what the problem says, or run networks from sources that you trust.",
    ),
    "engine_restarted": _kind(
        "df50e233a94e4474bf6f6138f83b0042",
        "error",
        "problem request parts restart_ms",
        "The engine's process died or was late, and a fresh one works in its place.",
        "A request that is named is sent anew once, then quarantined: look at its input. If the "
        "problem names a part that was being loaded, try the bundle with 'continuer model verify'.",
        failure=True,
    ),
    "plan_accepted": _kind(
        "c168ac6bc44f490fa4eb5ffc7ad4b770",
        "info",
        "version technique failed replayed",
        "A plan is in force here.",
        "Nothing.",
    ),
    "plan_refused": _kind(
        "15356586ca004e74bdc7688ec302a143",
        "warning",
        "version held problem",
        "A plan was not put in force; the agent asks for a whole one.",
        "Nothing if it happens once. If it goes on, compare the bundle on both sides.",
    ),
    "local_repair": _kind(
        "8c810717c7b84277bb76e64e4afd5267",
        "error",
        "version technique failed replayed",
        "The agent acted on a contingency that it holds, before the coordinator had spoken.",
        "Nothing while the coordinator is there. Otherwise start it: it alone can take a node "
        "back in.",
        failure=True,
    ),
    "repair_impossible": _kind(
        "6187e593ccdf47e5b65077aacc3293d5",
        "critical",
        "failed problem",
        "Nodes of the route failed, and the agent holds nothing that goes around them.",
        "Start the coordinator: it plans for failures that nobody foresaw.",
        failure=True,
    ),
    "peer_unreachable": _kind(
        "d9112d2927f343f68389b81cfba0ff86",
        "warning",
        "peer dropped",
        "Work for a peer could not be sent.",
        "If the peer is not dead, look at the network between the two boxes.",
        failure=True,
    ),
    "request_failed": _kind(
        "a3b206054e684a09846140d9c8264bad",
        "warning",
        "code problem attempt",
        "A request got an error as its one outcome.",
        "busy: add capacity; deadline: raise the budget; quarantined: look at that input; "
        "no_plan: bring nodes back.",
        failure=True,
    ),
    "handed_over": _kind(
        "a0d5cd6a955748ad85811c79fd6f1484",
        "info",
        "outcome drain_ms",
        "The agent was told to stop, and has done what it could to hand its work over.",
        "Nothing, unless the outcome says that nobody took it over.",
    ),
    # coordinator
    "deploy_begun": _kind(
        "2abb3a3fa59549df90628ef4daba7aae",
        "info",
        "bundle digest nodes",
        "The nodes make a bundle ready beside the running one.",
        "Nothing; see continuer status.",
    ),
    "deployed": _kind(
        "6d750eb71f624b92a5df350699d0049f",
        "info",
        "bundle digest version deploy_ms",
        "The bundle is in force everywhere.",
        "Nothing. To go back: continuer deploy --rollback.",
    ),
    "deploy_failed": _kind(
        "ac89f8ecdbca478e8e6a78556e084d0e",
        "error",
        "bundle digest nodes problem",
        "A bundle was given up; the one before it serves as ever.",
        "Do what the problem says, then deploy again.",
        failure=True,
    ),
    "bundle_remembered": _kind(
        "56000cf6fb2049c3a1d805a084c572f4",
        "info",
        "bundle digest",
        "The bundle deployed last is served, not the configured one.",
        "Nothing. To go back: continuer deploy --rollback.",
    ),
    "bundle_forgotten": _kind(
        "a5ba63a2f6b243dd9064d4aed826dbe6",
        "warning",
        "problem",
        "The configured bundle is served, not the one deployed last.",
        "Where that was not meant, deploy again.",
        failure=True,
    ),
    "node_joined": _kind(
        "68bd9888bf5b41fe86c15d23401390bf",
        "info",
        "node incarnation",
        "A node asks for work.",
        "Nothing.",
    ),
    "node_refused": _kind(
        "fac92e001f0f40328f9651845ae6f4a9",
        "error",
        "node code problem",
        "A node was turned away.",
        "Do what the problem says on that node: cluster, bundle, version, name.",
        failure=True,
    ),
    "node_suspect": _kind(
        "45b2e188ef4b4ace93fcc82e82b48a0b",
        "warning",
        "node reason silence_ms",
        "A node is avoided for now; the failover has begun.",
        "Nothing yet. If it comes and goes, look at the node's load and network, or raise "
        "heartbeat_timeout_ms.",
        failure=True,
    ),
    "node_dead": _kind(
        "613254073f84408b8f1f519a07f63ee6",
        "error",
        "node reason",
        "A node is held dead.",
        "Bring the box back; it is taken in again by itself.",
        failure=True,
    ),
    "node_trusted": _kind(
        "fc1374f73974467f99a1e9dcd53af4fe",
        "info",
        "node suspect_ms",
        "A suspect node is heard again.",
        "Nothing. Often means that heartbeat_timeout_ms is too short for this box.",
        failure=True,
    ),
    "node_returned": _kind(
        "72f0bc1e735b454b9c855d97fb447d17",
        "info",
        "node",
        "A node was taken back in.",
        "Nothing.",
        failure=True,
    ),
    "node_left": _kind(
        "318e7f0e5fa24320889fe00183864742",
        "info",
        "node",
        "A node stopped on purpose.",
        "Nothing if someone stopped it.",
    ),
    "observer_late": _kind(
        "e6459d29f2c64999aca121ba41529b7c",
        "warning",
        "late_ms",
        "The coordinator itself stalled; nobody is suspected for what was missed.",
        "Give the coordinator's box CPU time or real-time priority: failures wait for it.",
    ),
    "prediction_wrong": _kind(
        "f128f9a4d4a14855b5d731f7c8c74852",
        "warning",
        "node error_percent factor",
        "A node's work takes more than 20 % longer, or less, than predicted, although predictions "
        "are corrected by the factor.",
        "Look what slows the node: heat, its governor, other work. Nothing if it just changed; "
        "plans take it into account within seconds.",
    ),
    "prediction_right": _kind(
        "c1fe9aa1af4c4e3490508f24d368ec05",
        "info",
        "node error_percent factor",
        "The corrected prediction holds again.",
        "Nothing.",
    ),
    "suspicion_held": _kind(
        "50f70c1105674f088289fe840b6c1a48",
        "warning",
        "nodes",
        "Most nodes fell silent at once; the coordinator waits a moment before it believes it.",
        "Look at the network of the coordinator.",
        failure=True,
    ),
    "plan_formed": _kind(
        "170c783f1ad74b64b1e0940f26658141",
        "info",
        "version technique nodes accuracy latency_ms capacity_per_s",
        "A plan of all that is here is in force.",
        "Nothing.",
    ),
    "failover": _kind(
        "b62d02802bf74bd0ae619fe419b1ec6a",
        "error",
        "version nodes technique exit accuracy latency_ms downtime_ms why",
        "Nodes failed; another way of computing is in force.",
        "See which nodes, and bring them back. 'continuer plan show' tells what answers meanwhile.",
        failure=True,
    ),
    "healed": _kind(
        "6b13f24520fa408199872cd44b08c45c",
        "info",
        "version nodes technique accuracy latency_ms",
        "After the bridge, the best that is left is in force.",
        "Nothing; the failed nodes are still missing.",
        failure=True,
    ),
    "objectives_changed": _kind(
        "846cd6c1c0384df0a2bda9b9015a7d13",
        "info",
        "changed",
        "The operator has set other objectives.",
        "Nothing.",
    ),
    "drill_ordered": _kind(
        "c1ded4eec76244649a90e797ac5ebe46",
        "warning",
        "node away_ms",
        "The operator lets a node die, to see what becomes of the service.",
        "Nothing: 'continuer drill' watches and reports.",
    ),
    "drill_begun": _kind(
        "d03b4bfb129d4633ab78e745cbf2de29",
        "warning",
        "away_ms",
        "This agent dies by order, and comes back on its own.",
        "Nothing: it is back after that time.",
    ),
    "node_draining": _kind(
        "91ccc4d7e27e41218d97a32c5a6d7177",
        "info",
        "node",
        "A node's work moves elsewhere, by order.",
        "Wait until 'continuer drain' has returned before you take it down.",
    ),
    "node_resumed": _kind(
        "226b54d9e79847009910b68ffe0079af",
        "info",
        "node",
        "A drained node may work again.",
        "Nothing.",
    ),
    "state_unwritable": _kind(
        "26f8b6d77e4b427b99ccc115cde5f763",
        "error",
        "problem",
        "The state directory cannot be written; the service goes on.",
        "Do what the problem says, before the coordinator is restarted.",
        failure=True,
    ),
    "no_plan": _kind(
        "e3cc7c5fca234c37affbeb8ba8ad7af5",
        "critical",
        "nodes problem",
        "The survivors cannot serve; requests get errors.",
        "Bring nodes back at once, or give the others more memory (memory_mib).",
        failure=True,
    ),
    "table_loaded": _kind(
        "3db5d27f0f564b769c7573540a783e27",
        "info",
        "file built kinds variants",
        "Predictions of this table are used for what was not measured.",
        "Nothing.",
    ),
    "table_refused": _kind(
        "1289d1c3db5a4a8fa192edbb543d7022",
        "warning",
        "file problem",
        "The table cannot be used; plans are made from measured values and estimates.",
        "Build it again for this bundle with 'continuer predictors build', and restart.",
    ),
    "table_absent": _kind(
        "66057dc52d4d4567836f0c700820b2b1",
        "info",
        "problem",
        "No table is configured; plans are made from measured values and estimates.",
        "Nothing; or build one with 'continuer predictors build' and set 'tables'.",
    ),
    "objectives_violated": _kind(
        "563eb96534e94e6488bb7be814bd27e8",
        "warning",
        "nodes technique violations",
        "Nothing that is left meets the thresholds; the nearest is taken. With nodes: this "
        "would be so if they failed.",
        "Loosen the thresholds, or add a box.",
    ),
    "link_failed": _kind(
        "058a2072b3384cd88a2101d7ce4010b9",
        "error",
        "link avoided_ms",
        "One node cannot reach another one, and both live: routes go around that link for a while.",
        "Check cable, switch and firewall between the two, in that direction.",
        failure=True,
    ),
    "redundancy_refused": _kind(
        "ef83b439999c4f928cd25a12fcf83d0f",
        "warning",
        "request_class problem",
        "A request class asks for two disjoint routes and gets one: a crash will be felt.",
        "Add a box or memory, lower the rate of requests, or do without redundancy.",
    ),
    "single_point_of_failure": _kind(
        "238175e1e81040c28804984b39d9443f",
        "warning",
        "node problem",
        "If this box failed, a threshold would break or nothing could serve.",
        "Back it up first: give another box the memory or speed to take its work over.",
    ),
    "technique_fell_back": _kind(
        "767f36bbede74766baf08b2ae8edbf42",
        "warning",
        "nodes forced technique",
        "The forced technique is impossible here; another was taken.",
        'Set technique = "auto", or give the model the exits or skips that the forced one needs.',
    ),
    "failover_told": _kind(
        "6aa9f3d92aaf4b5aa0e2121164ffaf3c",
        "info",
        "version nodes silence_ms detect_ms decide_ms tell_ms outage_ms predicted_ms replayed lost",
        "Every survivor has acknowledged the step.",
        "Nothing; the times are what this failover took, beside what it was predicted to take.",
        failure=True,
    ),
    "token_created": _kind(
        "68a576cf29d54790802e47b4b7f44add",
        "info",
        "token role node",
        "An operator may have a box or a person enrolled with a token.",
        "Nothing, if that was you; else continuer token revoke.",
    ),
    "enrolled": _kind(
        "f212e3e120e34a7085b3d3107ad0df3a",
        "info",
        "node role key",
        "A box or a person has used a token and is known now.",
        "Nothing, if you expected it; else continuer node revoke.",
    ),
    "enrol_refused": _kind(
        "5b2a4f4db4ae4da0b5911fa51bee98b0",
        "warning",
        "node problem",
        "Somebody tried to enrol and was turned away.",
        "Find out who it was, if nobody mistyped a token.",
    ),
}
