"""Peer aggregation rules, one algorithm a file."""

if __name__ == "strategies":
    raise ImportError("import flower_dfl.strategies, not strategies: two names would make every class exist twice")
