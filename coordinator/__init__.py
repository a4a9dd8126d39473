"""The daemon that watches the nodes, plans for failures, and tells everyone."""
