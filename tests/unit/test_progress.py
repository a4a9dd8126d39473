"""A bar for what takes long, where somebody looks."""

from __future__ import annotations

import io

from continuer.progress import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_grows_and_is_gone_at_the_end() -> None:
    out = Terminal()
    assert list(bar(range(4), 4, "asking", out, after_s=0)) == [0, 1, 2, 3]
    assert "asking [" in out.getvalue()
    assert "/4" in out.getvalue()
    assert out.getvalue().endswith("\r\033[K")


def test_what_is_quick_shows_none() -> None:
    out = Terminal()
    assert list(bar(range(4), 4, "asking", out)) == [0, 1, 2, 3]
    assert out.getvalue() == ""


def test_a_stream_that_is_no_terminal_gets_none() -> None:
    out = io.StringIO()
    assert list(bar(range(4), 4, "asking", out, after_s=0)) == [0, 1, 2, 3]
    assert out.getvalue() == ""
