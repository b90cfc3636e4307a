"""The ``flower-dfl`` command."""
