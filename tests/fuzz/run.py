"""Fuzzing guided by coverage: ``python -m tests.fuzz.run TARGET [SECONDS]``.

Ends with libFuzzer's exit code where an input crashes a target, takes longer than 10 s, or makes
it take more than 1 GiB; that input is then in a file in the current directory.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["continuer", "msgpack"]):
    from tests.fuzz.seeds import seeds
    from tests.fuzz.targets import TARGETS

RSS_LIMIT_MIB = 1024
TIMEOUT_S = 10


def main() -> None:
    """Run one target for so many seconds, 60 unless given."""
    name = sys.argv[1]
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    corpus = Path(tempfile.mkdtemp(prefix=f"continuer-corpus-{name}-"))
    for index, raw in enumerate(seeds(name)):
        (corpus / f"seed{index}").write_bytes(raw)
    options = [
        sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-rss_limit_mb={RSS_LIMIT_MIB}",
        f"-timeout={TIMEOUT_S}", "-print_final_stats=1",
    ]  # fmt: skip
    atheris.Setup(options, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
