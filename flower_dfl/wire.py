"""What server and nodes say to each other beside models: the record names and keys of both apps."""

__all__ = ["FACTS", "FAILURE", "REPORT", "STEP"]

STEP = "step"
"""Server to node: kind of step, message number, transport, code version."""

REPORT = "report"
"""Node to server: the report of the closed round, as JSON."""

FACTS = "facts"
"""Node to server: what is known of the node before the first round, as JSON."""

FAILURE = "failure"
"""Node to server: what went wrong, by name."""
