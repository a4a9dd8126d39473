"""What an ingress needs to know of a bundle: what clients are told, and which paths it has."""

from __future__ import annotations

import msgspec

from continuer.bundle import Bundle
from continuer.errors import BundleError, WireError
from continuer.wire import BUNDLE_ID_BYTES, Submit, metas

MAX_PATHS = 1000


class Served:
    """One per bundle. ``id``: what requests for it carry; ``mark``: ``InputSpec.mark``."""

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.id = bundle.hash[:BUNDLE_ID_BYTES]
        self.mark = manifest.input.mark
        self.input_metas = metas(manifest.input.tensors)
        self.client_view = msgspec.json.encode(
            {"input": msgspec.to_builtins(manifest.input), "classes": manifest.classes}
        )
        self._paths: dict[tuple[int, ...], tuple[tuple[str, ...], str | None]] = {}

    def takes(self, submit: Submit) -> bool:
        """The request's input was prepared for a network such as this one, as far as it says."""
        kinds = [(meta.dtype, meta.shape) for meta in submit.tensors]
        own = [(meta.dtype, meta.shape) for meta in self.input_metas]
        return kinds == own and submit.input_mark in (b"", self.mark)

    def path_of(self, parts: tuple[int, ...]) -> tuple[tuple[str, ...], str | None]:
        """The path's part names and its exit. Raises WireError where there is no such path."""
        known = self._paths.get(parts)
        if known is not None:
            return known
        names = self.bundle.part_names
        if not parts or not all(0 <= part < len(names) for part in parts):
            raise WireError("route: no part, or one that the bundle does not have")
        path = tuple(names[part] for part in parts)
        exit_name, skipped = self.bundle.variant_of(path)
        try:
            coherent = path == self.bundle.path(skipped, exit_name)
        except BundleError as error:
            raise WireError(f"route: {error}") from error
        if not coherent:
            raise WireError(f"route: {' '.join(path)[:200]} is no path of the bundle")
        if len(self._paths) < MAX_PATHS:
            self._paths[parts] = (path, exit_name)
        return path, exit_name
