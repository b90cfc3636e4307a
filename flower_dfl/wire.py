"""What launcher, server and nodes say to each other beside models: names of records and variables."""

__all__ = [
    "COMMAND_VARIABLE",
    "DIGESTS",
    "FACTS",
    "FAILURE",
    "MOST_WORKERS_VARIABLE",
    "REPORT",
    "RUN_FOLDER_VARIABLE",
    "START_TIMEOUT",
    "STEP",
]

START_TIMEOUT = 300.0
"""Seconds that a new worker may take to start, and to import the package and load its data, beside ``node-timeout``.

Minutes on a busy machine, as Ray's workers have a low priority.
"""

STEP = "step"
"""Server to node: kind of step, message number, transport, code version."""

REPORT = "report"
"""Node to server: the report of the closed round, as JSON."""

DIGESTS = "digests"
"""Node to server: the rule's digests, where they are recorded."""

FACTS = "facts"
"""Node to server: what is known of the node before the first round, as JSON."""

FAILURE = "failure"
"""Node to server: what went wrong, by name."""

RUN_FOLDER_VARIABLE = "FLOWER_DFL_RUN_FOLDER"
"""Launcher to server, as an environment variable: the folder, already made, that the run writes to."""

COMMAND_VARIABLE = "FLOWER_DFL_COMMAND"
"""Launcher to server, as an environment variable: the command that the user gave, as JSON."""

MOST_WORKERS_VARIABLE = "FLOWER_DFL_MOST_WORKERS"
"""User to launcher, and launcher to worker pool, as an environment variable: how many workers may start at most. A
launcher passes on no more than there are nodes, as others would have nothing to do."""
