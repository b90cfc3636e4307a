"""Communication graphs and schedules by which they change, one a file."""

if __name__ == "topologies":
    raise ImportError("import flower_dfl.topologies, not topologies: two names would make every class exist twice")
