"""In which order, and with which of the nodes, a route goes around links that are broken.

Pure functions over names: nodes, and links as ``link_name`` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from continuer.plan import link_ends, link_name

# Beside one for each node: enough to find a way around a few broken links; a route around many
# may not be found.
MAX_STEPS = 200


def split_failures(failed: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """The nodes and the links in a set of failures."""
    links = frozenset(name for name in failed if link_ends(name) is not None)
    return failed - links, links


def arrangements(names: Sequence[str], broken: frozenset[str]) -> list[tuple[str, ...]]:
    """Orders of nodes in which no hop needs a broken link.

    All nodes, as near to their own order as can be; and, for each broken link between two of
    them, all but one of its ends. The nodes in their own order where nothing is broken.
    """
    if not broken:
        return [tuple(names)]
    without = {end for link in broken for end in link_ends(link) or ()}
    choices = [list(names)]
    choices += [[n for n in names if n != end] for end in sorted(without & set(names))]
    found = [order for some in choices if some and (order := _order(some, broken))]
    return list(dict.fromkeys(found))


def _order(names: Sequence[str], broken: frozenset[str]) -> tuple[str, ...]:
    """All of the nodes, the earliest possible first; empty where there is no such order."""
    order: list[str] = []
    left = list(names)
    tried = [0]  # at each place of the order: how many of those left then have had their turn there
    for _ in range(MAX_STEPS + len(names)):
        fits = (
            index
            for index in range(tried[-1], len(left))
            if not order or link_name(order[-1], left[index]) not in broken
        )
        index = next(fits, None)
        if index is None:
            tried.pop()
            if not tried:
                return ()
            left.insert(tried[-1] - 1, order.pop())
            continue
        tried[-1] = index + 1
        order.append(left.pop(index))
        if left:
            tried.append(0)
        # The answer goes from the last node to the first, by which clients enter.
        elif len(order) == 1 or link_name(order[-1], order[0]) not in broken:
            return tuple(order)
        else:
            left.insert(index, order.pop())
    return ()


def victims(order: Sequence[str], broken: frozenset[str]) -> list[frozenset[str]]:
    """Sets of nodes without which the order needs no broken link: the targets, or the sources."""
    following = zip(order, [*order[1:], *order[:1]], strict=True)
    used = [pair for pair in following if link_name(*pair) in broken]
    sides = [*zip(*used, strict=True)][::-1]
    return [frozenset(ends) for ends in dict.fromkeys(sides)]
