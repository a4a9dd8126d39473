"""The daemon on each edge box: runs its blocks, forwards tensors, accepts requests."""
