"""The exception tree.

::

    DflError
    |-- ConfigurationError       a setting is unknown, has the wrong type, or contradicts another one
    |   |-- UnknownComponentError    no strategy, attack, topology, model or data set has this name
    |   `-- TopologyError            the requested graph cannot be built, or is not connected
    |-- ByzantineBudgetError     a rule cannot tolerate that many Byzantine neighbours in so small a neighbourhood
    |-- DataError                a data set is missing or malformed
    |-- TransportError           a message or an answer did not arrive
    |   `-- LostError                what a node remembered or sent is gone: its holder died
    |-- NodeFailedError          a node's own computation raised
    |-- StorageError             a run folder cannot be written
    `-- ResumeError              a recorded run cannot be continued

A message states the rule that was broken and the values that broke it. What a *peer* sends never raises any of these:
see :mod:`flower_dfl.ingress`.
"""


class DflError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigurationError(DflError):
    """A setting is unknown, has the wrong type, or contradicts another one."""


class UnknownComponentError(ConfigurationError):
    """No component has this name."""


class TopologyError(ConfigurationError):
    """The requested graph cannot be built, or is not connected."""


class ByzantineBudgetError(DflError):
    """A rule cannot tolerate that many Byzantine neighbours in so small a neighbourhood."""


class DataError(DflError):
    """A data set is missing or malformed."""


class TransportError(DflError):
    """A message or an answer did not arrive."""


class LostError(TransportError):
    """What a node remembered or sent is gone: the process or machine that held it died."""


class NodeFailedError(DflError):
    """A node's own computation raised."""


class StorageError(DflError):
    """A file cannot be written."""


class ResumeError(DflError):
    """A recorded run cannot be continued."""
