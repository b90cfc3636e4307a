"""For a usual Flower app with a server in the middle: this package's rules as Flower strategies."""

from flower_dfl.integrations.fldetector import FLDetector
from flower_dfl.integrations.flower import as_flower_strategy
from flower_dfl.integrations.fltrust import FLTrust

__all__ = ["FLDetector", "FLTrust", "as_flower_strategy"]
