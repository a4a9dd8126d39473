"""Who is taken in: tokens, enrolment, revocation, new keys. The coordinator's side of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, get_args

import msgspec

from continuer.config import NAME, CoordinatorConfig
from continuer.errors import EXIT_USAGE, ContinuerError, UsageError
from continuer.journal import Journal
from continuer.security import keys
from continuer.security.access import Access
from continuer.security.identity import KEY, Identity, Role
from continuer.security.ring import MAX_IDENTITIES
from continuer.security.start import COORDINATOR
from continuer.security.tokens import FILE, Token, Tokens
from continuer.wire import Ask, Enrol, Enrolled, Refuse, Tell

TOKEN_BYTES = 24
MAX_PROBLEM = 500
REFUSED = "token: not open here; it is mistyped, used, revoked or too old: ask for a new one"


class Admission:
    """Changes the ring, and says so to ``on_change`` with the names that are out now."""

    def __init__(
        self,
        config: CoordinatorConfig,
        access: Access,
        journal: Journal,
        on_change: Callable[[frozenset[str]], None],
    ) -> None:
        self._config = config
        self._access = access
        self._journal = journal
        self._on_change = on_change
        self._tokens = Tokens(access.directory / FILE)
        self._refused = 0
        self.ports = {"agents": config.agents_port, "control": config.control_port, "join": 0}
        access.strangers_welcome = lambda: bool(self._tokens.open(time.time()))
        self._verbs: dict[str, Callable[[dict[str, Any], Identity], dict[str, Any]]] = {
            "token.create": self._create,
            "token.list": self._list_tokens,
            "token.revoke": self._revoke_token,
            "node.list": self._list_nodes,
            "node.revoke": self._revoke,
            "node.rotate": self._rotate,
            "node.confirm": self._confirm,
            "node.rotate_coordinator": self._rotate_coordinator,
        }

    def answer(self, ask: Ask, sender: Identity) -> Tell | None:
        """The answer to a verb of ours; None for one of others."""
        verb = self._verbs.get(ask.verb)
        if verb is None:
            return None
        try:
            return Tell(verb(ask.arguments, sender))
        except ContinuerError as error:
            return Tell({}, str(error)[:MAX_PROBLEM], EXIT_USAGE)
        except OSError as error:
            return Tell({}, f"state_dir: this cannot be kept: {error}")

    # --- enrolment --------------------------------------------------------------------

    def enrol(
        self, enrol: Enrol, public: str, ingresses: tuple[tuple[str, str], ...]
    ) -> Enrolled | Refuse:
        """Take in whoever has this key, if the token is open; it is spent by that."""
        token = self._tokens.check(enrol.token, time.time())
        if token is None:
            return self._refuse(enrol, REFUSED)
        name = token.name or enrol.name
        problem = self._name_problem(name, token)
        if problem is not None:
            return self._refuse(enrol, problem)
        identity = Identity(name, token.role, public)
        try:
            self._tokens.spend(token)  # first: at worst a token is lost, never used twice
            # A token for this very name replaces what had it: its box was set up anew.
            self._learn([*self._others(name), identity], frozenset({name}))
        except OSError as error:
            return self._refuse(enrol, f"the coordinator cannot keep it: {error}")
        self._journal.emit("enrolled", node=name, role=token.role, key=public)
        return Enrolled(
            name, token.role, self._config.cluster, self.ports["agents"], self.ports["control"],
            self._access.ring.identities, ingresses,
        )  # fmt: skip

    def _refuse(self, enrol: Enrol, problem: str) -> Refuse:
        self._refused += 1
        if self._refused & (self._refused - 1) == 0:
            self._journal.emit("enrol_refused", node=enrol.name[:64], problem=problem)
        return Refuse("enrol", problem)

    def _name_problem(self, name: str, token: Token) -> str | None:
        if len(self._ring) >= MAX_IDENTITIES:
            return f"{MAX_IDENTITIES} keys are known, and no more can be; revoke some"
        if not NAME.fullmatch(name) or name == COORDINATOR:
            return f"name = {name[:64]!r}: give another with --name, such as 'n7'"
        if token.name is None and self._access.ring.named(name):
            return (
                f"name = {name!r}: somebody has it; revoke that one first, or ask for a token "
                f"that was made with --name {name}"
            )
        return self._role_problem(name, token.role)

    def _role_problem(self, name: str, role: Role) -> str | None:
        if role == "agent" and name not in self._config.nodes:
            known = ", ".join(self._config.nodes)
            return (
                f"name = {name!r}: not among 'nodes' of the coordinator ({known}); add it there "
                "and restart the coordinator, or give one of them with --name"
            )
        return None

    # --- verbs ------------------------------------------------------------------------

    def _create(self, arguments: dict[str, Any], _: Identity) -> dict[str, Any]:
        role, name = arguments.get("role", "agent"), arguments.get("name")
        if role not in get_args(Role) or role == COORDINATOR:
            raise UsageError(f"--role {role!r}: give agent, client, observer or operator")
        if name is not None:
            if not isinstance(name, str) or not NAME.fullmatch(name) or name == COORDINATOR:
                raise UsageError(f"--name {name!r}: use 1 to 63 of a-z, 0-9, '-', '_', '.'")
            problem = self._role_problem(name, role)
            if problem is not None:
                raise UsageError(problem)
        ttl_s = arguments.get("ttl_s")
        if not isinstance(ttl_s, int | float):
            raise UsageError(f"--ttl {ttl_s!r}: give a time such as 15m")
        # With a letter first: a word that begins with '-' would be taken for an option of join.
        secret = f"t{secrets.token_urlsafe(TOKEN_BYTES)}"
        token = self._tokens.create(secret, role, name, float(ttl_s), time.time())
        self._journal.emit("token_created", token=token.id, role=role, node=name or "")
        return {
            "schema": 1, "token": secret, "id": token.id, "role": role, "name": name,
            "expires_s": token.expires_s, "join_port": self.ports["join"],
            "listen": self._config.listen, "key": self._access.pair.public,
        }  # fmt: skip

    def _list_tokens(self, _: dict[str, Any], __: Identity) -> dict[str, Any]:
        now = time.time()
        return {
            "schema": 1,
            "tokens": [
                {"id": t.id, "role": t.role, "name": t.name, "left_s": round(t.expires_s - now)}
                for t in self._tokens.open(now)
            ],
        }

    def _revoke_token(self, arguments: dict[str, Any], _: Identity) -> dict[str, Any]:
        token = self._tokens.named(str(arguments.get("id")))
        self._tokens.spend(token)
        return {"id": token.id}

    def _list_nodes(self, _: dict[str, Any], __: Identity) -> dict[str, Any]:
        return {"schema": 1, "nodes": [msgspec.structs.asdict(i) for i in self._ring]}

    def _revoke(self, arguments: dict[str, Any], sender: Identity) -> dict[str, Any]:
        name = str(arguments.get("name"))
        if name in (COORDINATOR, sender.name):
            raise UsageError(f"{name!r} cannot be revoked: it would be you, or the coordinator")
        if not self._access.ring.named(name):
            raise UsageError(f"{name[:64]!r}: nobody has this name; see 'continuer node list'")
        self._learn(self._others(name), frozenset({name}))
        return {"name": name}

    def _rotate(self, arguments: dict[str, Any], sender: Identity) -> dict[str, Any]:
        """Both keys are good until the new one has been used."""
        public = str(arguments.get("public"))
        if not KEY.fullmatch(public) or self._access.ring.find(public) is not None:
            raise UsageError("public: give a new public key")
        if len(self._ring) >= MAX_IDENTITIES:
            raise UsageError(f"{MAX_IDENTITIES} keys are known, and no more can be; revoke some")
        if sender.role == COORDINATOR or len(self._access.ring.named(sender.name)) > 1:
            raise UsageError(f"{sender.name}: a new key is waiting already; use it first")
        self._learn([*self._ring, Identity(sender.name, sender.role, public)], frozenset())
        return {"name": sender.name, "role": sender.role}

    def _confirm(self, _: dict[str, Any], sender: Identity) -> dict[str, Any]:
        self.used(sender)
        return {"name": sender.name}

    def _rotate_coordinator(self, _: dict[str, Any], __: Identity) -> dict[str, Any]:
        """Have the next key known, and then kept: the next start uses it."""
        directory = self._access.directory
        if (directory / keys.NEXT).exists():
            raise UsageError("a new key is waiting already; restart the coordinator to use it")
        pair = keys.make()
        self._learn([*self._ring, Identity(COORDINATOR, "coordinator", pair.public)], frozenset())
        keys.save(directory, pair, keys.NEXT)
        return {"public": pair.public}

    def used(self, sender: Identity) -> None:
        """A key was used: older ones of the same name are not good any more."""
        same = self._access.ring.named(sender.name)
        older = same[: same.index(sender)] if sender in same else ()
        if older:
            self._learn([i for i in self._ring if i not in older], frozenset())

    # --- the ring ---------------------------------------------------------------------

    @property
    def _ring(self) -> tuple[Identity, ...]:
        return self._access.ring.identities

    def _others(self, name: str) -> list[Identity]:
        return [identity for identity in self._ring if identity.name != name]

    def _learn(self, identities: list[Identity], out: frozenset[str]) -> None:
        """Agents are told before the file is written: a slow disk keeps no thief in."""
        self._access.learn(identities)
        self._on_change(out)
        self._access.keep()
