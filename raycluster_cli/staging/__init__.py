"""The Python environment on each node's local disk (--stage-env): found, copied, rewritten, handed over."""
