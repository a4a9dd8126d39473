"""Routes that go on without some nodes: left at an exit, or past the blocks that are gone.

Pure functions over layouts: which node runs which parts, in route order.
"""

from __future__ import annotations

import itertools

from continuer.bundle import Bundle

Layout = dict[str, tuple[int, ...]]


def exit_layouts(bundle: Bundle, current: Layout, failed: frozenset[str]) -> list[Layout]:
    """For every exit before the first failed node: the route cut short there."""
    before = dict(itertools.takewhile(lambda hop: hop[0] not in failed, current.items()))
    return _cut_short(bundle, before)


def mixed_layouts(bundle: Bundle, skipping: Layout) -> list[Layout]:
    """For every exit after the first skipped block: the skipping route cut short there."""
    return [
        layout
        for layout in _cut_short(bundle, skipping)
        if bundle.variant_of([bundle.part_names[p] for parts in layout.values() for p in parts])[1]
    ]


def _cut_short(bundle: Bundle, route: Layout) -> list[Layout]:
    """The route left at each exit whose block it runs."""
    layouts = []
    before: Layout = {}
    for name, parts in route.items():
        for count, part in enumerate(parts, start=1):
            leaving = bundle.exit_after.get(part)
            if leaving is not None:
                layouts.append({**before, name: (*parts[:count], leaving)})
        before[name] = parts
    return layouts


def skip_layout(bundle: Bundle, current: Layout, failed: frozenset[str]) -> Layout | None:
    """The survivors' route with the failed nodes' blocks skipped.

    Bypasses, and blocks that cannot be skipped (stem, head), move to the survivor before,
    or after where there is none. None where the failed nodes hold nothing to skip.
    """
    by_part = {bundle.part_ids[b.part]: b for b in bundle.manifest.blocks}
    layout: dict[str, list[int]] = {}
    carried: list[int] = []  # parts of failed nodes before the first survivor
    skipped_any = False
    for name, parts in current.items():
        if name not in failed:
            layout[name] = [*carried, *parts]
            carried = []
            continue
        stays: list[int] = []
        for part in parts:
            block = by_part.get(part)
            if block is None or not block.skippable:
                stays.append(part)
                continue
            skipped_any = True
            if block.bypass is not None:
                stays.append(bundle.part_ids[block.bypass])
        heir = next(reversed(layout.values()), carried)
        heir += stays
    if not layout or not skipped_any:
        return None
    return {name: tuple(parts) for name, parts in layout.items()}
