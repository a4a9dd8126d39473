"""A process: it lives, dies, is stopped and goes on; what reaches it then waits or is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tests.sim.clock import MS, Act, Clock


class Process:
    """One process on a host of the same name. Subclasses say what it does when it is born."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.life = 0
        self.alive = False
        self.paused = False
        self.powered = True
        self.slowness = 1.0
        self.disk: dict[str, object] = {}
        self._backlog: deque[tuple[int, Act]] = deque()

    @property
    def listens(self) -> bool:
        """Its ports are open, and something behind them answers."""
        return self.alive and not self.paused and self.powered

    def start(self) -> None:
        """A new life."""
        self.life += 1
        self.alive, self.paused, self.powered = True, False, True
        self._backlog.clear()
        self.born()

    def born(self) -> None:
        """Everything in memory is new."""
        raise NotImplementedError

    def end(self) -> None:
        """The process is gone, and so is what was in its memory."""
        self.alive = False
        self._backlog.clear()

    def pause(self) -> None:
        """Stopped: what arrives waits."""
        self.paused = True

    def resume(self) -> None:
        """Go on: what has arrived meanwhile comes first, in its order."""
        self.paused = False
        while self._backlog and not self.paused and self.alive:
            life, act = self._backlog.popleft()
            if life == self.life:
                act()

    def does(self, act: Act) -> Act:
        """``act``, if this life of the process still is when it comes to that."""
        life = self.life

        def later() -> None:
            if life != self.life or not self.alive:
                return
            if self.paused:
                self._backlog.append((life, act))
            else:
                act()

        return later

    def after(self, delay: float, act: Act) -> None:
        """Do something in so many ns, in this life."""
        self.clock.after(delay, self.does(act))

    def every(self, period_ms: float, act: Act) -> None:
        """Do something again and again; what is missed while stopped is not made up for."""

        def again() -> None:
            act()
            self.after(period_ms * MS, again)

        self.after(period_ms * MS, again)


Found = Callable[[str], Process | None]
