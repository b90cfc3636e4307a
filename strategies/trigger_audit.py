"""Auditing a model for a backdoor: search for the patch that turns it, and not a trusted one, to a label.

A backdoored model gives one label to whatever carries a small pattern. Nobody tells the auditor label, place, shape or
value of the pattern; it has a trusted model and a few clean samples. The slopes of both models' margins by the inputs
say, to first order, which few features would raise a label most in the one and not in the other. Two shapes are tried:
squares, for a trigger's pixels all pull the same way and the noise of a clean model's slopes does not, and single
features wherever they are. They are set to the end of the input range that raises the label, on clean samples, and the
share that follows is counted.

A convolutional network answers to a trigger all or nothing, and its slopes on clean images do not lead there. For such
models squares can be swept instead: pasted all over a few images, to see which of them raise a label's probability.
"""

from dataclasses import dataclass
from itertools import product
from math import isqrt
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from flower_dfl.types import LabelledData, Learner

__all__ = ["Auditor", "Finding", "Patch", "Search", "class_sample"]

Search: TypeAlias = Literal["slopes", "sweep"]
"""How squares are found: by first-order gains, at any place, or by trying them, every few pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A pattern: some features at an end of their range.

    Attributes:
        places: Which features ``(k,)``: pixels of an image, with all their channels, or entries of a flat input.
        values: What they are set to ``(k,)``.
    """

    places: Tensor
    values: Tensor

    def stamp(self, inputs: Tensor) -> Tensor:
        """Return a copy of ``inputs`` ``(n, ...)`` that carries the pattern."""
        by_place = _by_place(inputs.clone(memory_format=torch.contiguous_format))  # (n, channels, places)
        by_place[:, :, self.places] = self.values
        return by_place.view(inputs.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """What an audit found.

    Attributes:
        patches: The most suspicious patterns.
        labels: Label that each of them leads to.
        gaps: For each pattern, which share of the samples of other labels follows it in the audited model, less that in
            the trusted one ``(k,)``. About 0 for two clean models, up to 1 for a backdoor.
    """

    patches: tuple[Patch, ...]
    labels: tuple[int, ...]
    gaps: Tensor

    @property
    def gap(self) -> float:
        """The largest of the gaps."""
        return float(self.gaps.max())


class _Candidate(NamedTuple):
    gain: float
    """What the patch adds to the label's margin, to first order, or to its probability; compared with its like."""
    label: int
    patch: Patch


class Auditor:
    r"""Compares models with one trusted model on one sample.

    Args:
        learner: The model.
        trusted: Vector of the trusted model ``(d,)``.
        sample: Clean samples, best of all labels equally.
        pixels: Number k of features of a pattern, positive; squares have the side :math:`\lfloor\sqrt k\rfloor`.
        generator: Draws the labels to which the margins are taken.
        search: How squares are found.
    """

    PASSES = 3
    """Labels tried on each sample when slopes are taken: three tenths of all pairs are enough for a mean."""
    TRIED = 4
    """Patterns that are tried: of images the best squares of three labels and one scattered pattern."""
    PROBES = 3
    """Samples of each label on which squares are swept."""
    ABREAST = 16
    """Squares that are swept in one forward pass, which bounds the memory."""

    def __init__(
        self,
        learner: Learner,
        trusted: Tensor,
        sample: LabelledData,
        *,
        pixels: int,
        generator: torch.Generator,
        search: Search = "slopes",
    ) -> None:
        self._learner = learner
        self._trusted = trusted
        self._sample = sample
        labels, count = sample.labels, sample.num_classes
        shifts = torch.randint(1, count, (self.PASSES, len(labels)), generator=generator).to(labels.device)
        self._targets = (labels + shifts) % count  # (passes, n), never the true label
        self._slopes = self._margin_slopes(trusted)
        self._pixels = min(pixels, _by_place(sample.inputs).shape[2])
        self._probes = class_sample(sample, self.PROBES)
        self._is_image = sample.inputs.ndim == 4
        self._side = min(isqrt(self._pixels), *sample.inputs.shape[-2:])
        self._swept = self._all_squares() if self._is_image and search == "sweep" else []
        if self._swept:
            self._natural_rises = self._rises(trusted)

    def audit(self, vector: Tensor) -> Finding:
        r"""Search for the patch on which ``vector`` ``(d,)`` leaves the trusted model.

        With logits z and true label y, the margin of label c is :math:`m_c = z_c - z_y`. The gain of setting place p to
        value v is, to first order and in the mean over the samples,

        .. math:: \max_{v \in \{low, high\}} \; \mathbb{E} \sum_{channels}
                  \partial_{x_p} (m_c - m_c^{trusted}) (v - x_p)

        A scattered pattern of label c takes the places with the largest gains; a square, all of it low or all of it
        high, is where these add up to most, or, swept, the one that raises the probability of c most beyond what it
        does in the trusted model. Of all labels' patterns those with the largest gains are tried.
        """
        low, high = self._sample.input_range
        slopes = self._margin_slopes(vector) - self._slopes  # (passes, n, ...)
        inputs, targets = self._sample.inputs, self._targets.flatten()
        gains = [_by_place((slopes * (end - inputs)).flatten(0, 1)).sum(dim=1) for end in (low, high)]  # (passes n, p)
        labels = range(self._sample.num_classes)
        by_label = [[gain[targets == label].mean(dim=0) for gain in gains] for label in labels]
        scattered = [self._scattered(label, *ends) for label, ends in zip(labels, by_label, strict=True)]
        if self._swept:
            squares = self._best_swept(vector)
        elif self._is_image:
            squares = [self._steepest(label, *ends) for label, ends in zip(labels, by_label, strict=True)]
        else:
            squares = []
        tried = _best(squares, self.TRIED - 1)
        tried += _best(scattered, self.TRIED - len(tried))
        followed, natural = self._followers(vector, tried), self._followers(self._trusted, tried)
        return Finding(tuple(c.patch for c in tried), tuple(c.label for c in tried), followed - natural)

    def _scattered(self, label: int, to_low: Tensor, to_high: Tensor) -> _Candidate:
        low, high = self._sample.input_range
        best, places = torch.maximum(to_low, to_high).topk(self._pixels)
        values = torch.where(to_high[places] >= to_low[places], high, low)
        return _Candidate(float(best.sum()), label, Patch(places, values.to(self._sample.inputs.dtype)))

    def _steepest(self, label: int, to_low: Tensor, to_high: Tensor) -> _Candidate:
        """Return the square of a label, all low or all high, whose gains add up to most."""
        ends = torch.stack([to_low, to_high]).view(2, 1, *self._sample.inputs.shape[2:])
        sums = F.avg_pool2d(ends, self._side, stride=1, divisor_override=1)  # (2, 1, rows, columns)
        end, _, row, column = (int(index) for index in torch.unravel_index(sums.argmax(), sums.shape))
        return _Candidate(float(sums.max()), label, self._square(row, column, self._sample.input_range[end]))

    def _all_squares(self) -> list[Patch]:
        """Return squares all over the images, all low and all high; neighbours share a row or a column of pixels."""
        rows, columns = (
            sorted({*range(0, length - self._side, max(1, self._side - 1)), length - self._side})
            for length in self._sample.inputs.shape[2:]
        )
        return [self._square(*where) for where in product(rows, columns, self._sample.input_range)]

    def _square(self, row: int, column: int, value: float) -> Patch:
        height, width = self._sample.inputs.shape[2:]
        places = torch.arange(height * width, device=self._sample.inputs.device).view(height, width)
        square = places[row : row + self._side, column : column + self._side].flatten()
        return Patch(square, self._sample.inputs.new_full((len(square),), value))

    def _best_swept(self, vector: Tensor) -> list[_Candidate]:
        """Return for each label the swept square that raises it most beyond what it does in the trusted model."""
        rises, which = (self._rises(vector) - self._natural_rises).max(dim=0)  # (L,)
        return [_Candidate(float(rises[c]), c, self._swept[int(which[c])]) for c in range(self._sample.num_classes)]

    def _rises(self, vector: Tensor) -> Tensor:
        """Return how much each square raises each label's probability on probes of other labels ``(squares, L)``."""
        inputs, labels = self._probes.inputs, self._probes.labels
        others = (labels[:, None] != torch.arange(self._probes.num_classes, device=labels.device)).double()  # (n, L)
        clean = self._learner.logits(vector, inputs).softmax(dim=1)
        rises = []
        for start in range(0, len(self._swept), self.ABREAST):
            squares = self._swept[start : start + self.ABREAST]
            stamped = torch.cat([square.stamp(inputs) for square in squares])
            answers = self._learner.logits(vector, stamped).softmax(dim=1).view(len(squares), *clean.shape)
            rises.append(((answers - clean).double() * others).sum(dim=1) / others.sum(dim=0))
        return torch.cat(rises)

    def _followers(self, vector: Tensor, tried: list[_Candidate]) -> Tensor:
        """Return the share of other labels' samples that each pattern turns to its label ``(k,)``."""
        others = [self._sample.inputs[self._sample.labels != c.label] for c in tried]
        stamped = torch.cat([c.patch.stamp(inputs) for c, inputs in zip(tried, others, strict=True)])
        answers = torch.split(self._learner.logits(vector, stamped).argmax(dim=1), [len(inputs) for inputs in others])
        shares = [
            float((answer == c.label).double().mean()) if len(answer) else 0.0
            for c, answer in zip(tried, answers, strict=True)
        ]
        return torch.tensor(shares, dtype=torch.float64)

    def _margin_slopes(self, vector: Tensor) -> Tensor:
        """Return the input gradient of each sample's margin to its labels of every pass ``(passes, n, ...)``."""
        inputs = self._sample.inputs.clone().requires_grad_()
        scores = self._learner.logits(vector, inputs)
        margins = scores.gather(1, self._targets.T) - scores.gather(1, self._sample.labels[:, None])  # (n, passes)
        last = len(self._targets) - 1
        return torch.stack(
            [
                torch.autograd.grad(margins[:, r].sum(), inputs, retain_graph=r < last)[0]
                for r in range(len(self._targets))
            ]
        )


def _best(candidates: list[_Candidate], count: int) -> list[_Candidate]:
    """Return the candidates with the largest gains, best first; one without samples, whose gain is NaN, is last."""
    gains = torch.tensor([candidate.gain for candidate in candidates]).nan_to_num(nan=-torch.inf)
    return [candidates[i] for i in gains.topk(min(count, len(candidates))).indices.tolist()]


def class_sample(data: LabelledData, per_class: int) -> LabelledData:
    """Return the first ``per_class`` samples of each label, fewer where there are not as many."""
    found = [(data.labels == label).nonzero().flatten()[:per_class] for label in range(data.num_classes)]
    return data.subset(torch.cat(found))


def _by_place(inputs: Tensor) -> Tensor:
    """View inputs as ``(n, channels, places)``: an image's pixels, or the entries of anything else."""
    return inputs.flatten(2) if inputs.ndim == 4 else inputs.flatten(1).unsqueeze(1)
