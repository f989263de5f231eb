"""What the learned scheduler reads: keys and values of one block, or its attention's output, after the prefill.

Keys lie in the cache after the rotary embedding has turned them by their position (most families). A set of cached
(key, value) pairs therefore still tells where each token stood, although attention with a learned query gives the same
result in whatever order the pairs are listed; activations carry no such turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from accuracy.schedulers.base import Prefill
from accuracy.schedulers.candidates import CandidateScheduler, CandidateSet
from hwsim.trace import unknown_name

if TYPE_CHECKING:
    from torch import Tensor

Source = Literal["kv", "activations"]
Block = Literal["first", "middle", "last"]
HALF_MAX = 65504.0
"""Largest finite float16; what lies beyond is cut to it."""


@dataclass(frozen=True)
class FeatureInput:
    """One of the inputs that Fig. 7 compares.

    Attributes:
        source: ``kv``, keys and values of every KV head; or ``activations``, the inputs of the attention's output
            projection, which stand for both keys and values of a single head.
        block: Which decoder block they come from; the middle one of L blocks is number L // 2 (0-based).
    """

    source: Source = "kv"
    block: Block = "last"

    @classmethod
    def named(cls, name: str) -> FeatureInput:
        """Look up ``kv-last`` and the like.

        Raises:
            InputError: If there is no such input.
        """
        source, _, block = name.partition("-")
        if source not in get_args(Source) or block not in get_args(Block):
            raise unknown_name("scheduler input", name, [one.name for one in ALL_INPUTS])
        return cls(cast("Source", source), cast("Block", block))

    @property
    def name(self) -> str:
        """For example ``kv-last``."""
        return f"{self.source}-{self.block}"

    def block_index(self, layers: int) -> int:
        """Number of the block (0-based) in a model of so many."""
        return {"first": 0, "middle": layers // 2, "last": layers - 1}[self.block]

    def captured_blocks(self, layers: int) -> frozenset[int]:
        """Blocks whose activations decoding must capture for it."""
        return frozenset({self.block_index(layers)}) if self.source == "activations" else frozenset()

    def read(self, prefill: Prefill) -> Features:
        """Copy it out of a prefill, rounded to half precision, which is what training sees too."""
        index = self.block_index(prefill.kv_cache.layers)
        if self.source == "activations":
            values = _half(prefill.activations[index][None])
            return Features(values, values)
        return Features(_half(prefill.kv_cache.keys(index)), _half(prefill.kv_cache.values(index)))


KV_LAST = FeatureInput()
"""What the paper found best."""
ALL_INPUTS = tuple(FeatureInput(source, block) for source in get_args(Source) for block in get_args(Block))


@dataclass(frozen=True)
class Features:
    """One prompt's input to the classifier, float16.

    Attributes:
        keys: ``[H, T, D_k]``.
        values: ``[H, T, D_v]``; the same tensor as the keys where activations are both.
    """

    keys: Tensor
    values: Tensor

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """What is stored of it, by name; keys that are the values are stored once."""
        stored = {f"{prefix}.values": self.values}
        return stored if self.keys is self.values else {**stored, f"{prefix}.keys": self.keys}

    @classmethod
    def from_tensors(cls, stored: Mapping[str, Tensor], prefix: str) -> Features:
        """Read what :meth:`tensors` gave."""
        values = stored[f"{prefix}.values"]
        return cls(stored.get(f"{prefix}.keys", values), values)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Heads, key width and value width: what must be equal for all prompts of a classifier."""
        return self.keys.shape[0], self.keys.shape[2], self.values.shape[2]


class FixedClass(CandidateScheduler):
    """Chooses the same class for every prompt, each at its own response bound."""

    name = "fixed-class"

    def __init__(self, candidates: CandidateSet, index: int) -> None:
        super().__init__(candidates)
        self.index = index

    @property
    def label(self) -> str:
        """For example ``fixed-class p4:4/3 N=4 class 2``."""
        return f"{super().label} class {self.index}"

    def identity(self) -> dict[str, Any]:
        """Candidates and class."""
        return {**super().identity(), "class": self.index}

    def choose(self, prefill: Prefill) -> int:
        """The class."""
        return self.index


class FeatureRecorder(FixedClass):
    """Keeps the features of every prompt, so that labels and features share one prefill.

    Attributes:
        features: By prompt id and name of the input.
    """

    def __init__(self, candidates: CandidateSet, index: int, inputs: Sequence[FeatureInput], layers: int) -> None:
        super().__init__(candidates, index)
        self._inputs = tuple(inputs)
        self.captured_blocks = frozenset().union(*(one.captured_blocks(layers) for one in inputs))
        self.features: dict[str, dict[str, Features]] = {}

    def choose(self, prefill: Prefill) -> int:
        """Copy the features; the class is the given one."""
        self.features[prefill.prompt_id] = {one.name: one.read(prefill) for one in self._inputs}
        return super().choose(prefill)


def _half(states: Tensor) -> Tensor:
    return states.clamp(-HALF_MAX, HALF_MAX).half().contiguous().cpu()
