"""What the mailbox's actor keeps.

It has a process of its own, which never looks into what it keeps, and therefore imports neither torch nor Flower: that
would take two to three seconds of a processor at the start of every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from flower_dfl.types import NodeId

__all__ = ["Parcel", "Slots"]

Parcel: TypeAlias = tuple[str, list[Any]]
"""A tree: its skeleton, and for each tensor a small array or the reference of a large one.

References travel in lists, so that Ray does not fetch what they refer to.
"""


class Slots:
    """The newest memory and report of each node, and letters by round and sender."""

    def __init__(self, rounds_kept: int) -> None:
        self._rounds_kept = rounds_kept
        self._memories: dict[NodeId, tuple[int, Parcel]] = {}
        self._reports: dict[NodeId, str] = {}
        self._begun: dict[NodeId, int] = {}
        self._letters: dict[int, dict[NodeId, tuple[dict[NodeId, int], list[Parcel]]]] = {}

    def ready(self) -> bool:
        """Answer, once the actor is up."""
        return True

    def recall(self, node: NodeId, before: int) -> Parcel | None:
        """Return a node's memory, and note that its step has begun."""
        self._begun[node] = before
        return self.memory(node)

    def memory(self, node: NodeId) -> Parcel | None:
        """Return a node's memory."""
        return self._memories[node][1] if node in self._memories else None

    def commit(
        self, node: NodeId, round: int, memory: Parcel, sent: tuple[dict[NodeId, int], list[Parcel]], report: str
    ) -> None:
        """Take over what a step made, and drop rounds whose letters nobody will ask for."""
        self._memories[node] = (round, memory)
        self._reports[node] = report
        self.post(round, node, sent)
        for old in [r for r in self._letters if r < round - self._rounds_kept]:
            del self._letters[old]

    def post(self, round: int, sender: NodeId, sent: tuple[dict[NodeId, int], list[Parcel]]) -> None:
        """Keep which receiver gets which letter, and a sender's distinct letters."""
        if sent[0]:
            self._letters.setdefault(round, {})[sender] = sent

    def progress(self, node: NodeId, message: int) -> str | None:
        """Return a node's report if it has committed the step of a message; else whether it has begun it."""
        if node in self._memories and self._memories[node][0] == message:
            return "committed:" + self._reports[node]
        return "begun" if self._begun.get(node) == message else None

    def half_steps(self, nodes: list[NodeId], round: int) -> list[Parcel]:
        """Return the memories of those of the nodes that have entered a round."""
        known = [self._memories[node] for node in nodes if node in self._memories]
        return [parcel for entered, parcel in known if entered == round]

    def letters(self, receiver: NodeId, expected: list[tuple[NodeId, int]]) -> list[Parcel]:
        """Return the letters to a node that have come."""
        found = []
        for sender, round in expected:
            routes, letters = self._letters.get(round, {}).get(sender, ({}, []))
            if receiver in routes:
                found.append(letters[routes[receiver]])
        return found

    def sent(self, sender: NodeId, round: int) -> tuple[dict[NodeId, int], list[Parcel]]:
        """Return what a node sent in a round: which receiver got which letter, and the letters."""
        return self._letters.get(round, {}).get(sender, ({}, []))

    def starts(self, nodes: list[NodeId]) -> list[Any]:
        """Return the nodes' start-of-round models, the first tensors of their memories."""
        return [self._memories[node][1][1][0] for node in nodes]
