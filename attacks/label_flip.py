"""Label flipping: train on mirrored labels, follow the protocol otherwise."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, Knowledge, LabelledData

__all__ = ["LabelFlip"]


@dataclass(frozen=True, slots=True)
class LabelFlip(Attack):
    r"""Train on flipped labels (untargeted data poisoning).

    .. math:: y \mapsto L - 1 - y

    on all samples; for an even number of labels no label keeps its meaning. Flipping twice is the identity.

    References:
        Fang, Cao, Jia, Gong, *Local Model Poisoning Attacks to Byzantine-Robust Federated Learning*, USENIX Security
        2020. https://www.usenix.org/conference/usenixsecurity20/presentation/fang
    """

    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Return the same inputs with mirrored labels."""
        del ctx
        return LabelledData(data.inputs, data.num_classes - 1 - data.labels, data.num_classes, data.input_range)
