"""Data sets, how they are loaded, and how they are dealt to the nodes.

Start at :func:`flower_dfl.data.loading.load` and :func:`flower_dfl.data.loading.partition`; a data set or partition of
your own is a function given by reference (``data.name = "my_pkg.task:load"``).
"""

__all__: list[str] = []
