"""Attacks, one a file."""

if __name__ == "attacks":
    raise ImportError("import flower_dfl.attacks, not attacks: two names would make every class exist twice")
