"""For a usual Flower app with a server: this package's rules as Flower strategies, its attacks as client mods."""

from flower_dfl.integrations.attack_mod import attack_mod, poisoned
from flower_dfl.integrations.fldetector import FLDetector
from flower_dfl.integrations.flower import as_flower_strategy
from flower_dfl.integrations.fltrust import FLTrust

__all__ = ["FLDetector", "FLTrust", "as_flower_strategy", "attack_mod", "poisoned"]
