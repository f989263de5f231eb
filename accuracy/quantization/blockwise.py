"""Run a decoder one block at a time, so that a model larger than memory can be calibrated.

The model's own code does everything: what surrounds the blocks (embeddings, masks, rotary angles, final norm, lm_head,
loss) runs with a stub in the place of each block, which notes what the block is called with and answers with a tensor
of our choice; a block runs alone on the noted arguments. Nothing here knows a model family. It is right only for
models whose blocks pass on their hidden states and nothing else, so that is checked, not assumed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from accuracy.model import LOAD_ERRORS
from accuracy.quantization.checkpoint import Checkpoint
from hwsim.trace import InputError

_PROBE_TOKENS = 4


@dataclass(frozen=True)
class BlockCall:
    """What a block is called with beside its hidden states: masks, positions, rotary angles.

    Attributes:
        args: Positional arguments after the hidden states.
        kwargs: Keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class BlockwiseModel:
    """A causal language model in float32 that holds no block's weights.

    Embeddings, final norm, rotary tables and lm_head are in memory; a block's weights are whatever dictionary its
    caller passes, read by :meth:`weights` or made of them.

    Attributes:
        blocks: Names of the blocks, first to last.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Load what surrounds the blocks.

        Raises:
            InputError: If the blocks pass on more than their hidden states, so that they cannot be run one by one, or
                a weight is not finite.
        """
        self.blocks = checkpoint.blocks
        self._checkpoint = checkpoint
        # Tied tensors are stored once, under the name they are tied to.
        self._stored_name: dict[str, str] = dict(getattr(checkpoint.skeleton, "all_tied_weights_keys", {}))
        self._model = copy.deepcopy(checkpoint.skeleton)
        self._real = [self._model.get_submodule(name) for name in self.blocks]
        self._visit = _Visit()
        for index, name in enumerate(self.blocks):
            self._model.set_submodule(name, _Stub(self._real[index], partial(self._answer, index)))
        self._model.load_state_dict(self._read(self._model.state_dict()), assign=True)
        self._check_blocks()

    def weights(self, block: int) -> dict[str, Tensor]:
        """Read the weights of one block, float32, by their names within it.

        Raises:
            InputError: If one holds NaN or infinity.
        """
        return self._read(self._real[block].state_dict(), f"{self.blocks[block]}.")

    def record(self, input_ids: Tensor) -> tuple[Tensor, list[BlockCall]]:
        """Run what comes before the blocks.

        Args:
            input_ids: ``[1, T]``.

        Returns:
            The hidden states that enter the first block, ``[1, T, H]``, and what each block is called with.
        """
        last = len(self.blocks) - 1

        def stop_at_last(index: int, hidden: Tensor) -> Tensor:
            if index == last:
                raise _Stop
            return hidden

        with suppress(_Stop), torch.no_grad():
            self._run(input_ids, stop_at_last)
        return self._visit.first, self._visit.calls

    def run(self, block: int, weights: dict[str, Tensor], call: BlockCall, hidden: Tensor) -> Tensor:
        """Run one block; gradients flow to ``hidden`` and to the weights that require them.

        Args:
            block: Its index.
            weights: All its weights, by their names within it.
            call: What :meth:`record` noted for it.
            hidden: The hidden states that enter it, ``[1, T, H]``.

        Returns:
            The hidden states that leave it, ``[1, T, H]``.

        Raises:
            InputError: If the block returns anything else.
        """
        output = functional_call(self._real[block], weights, (hidden, *call.args), call.kwargs)
        if not isinstance(output, Tensor) or output.shape != hidden.shape:
            raise self._unsupported(f"{self.blocks[block]} returns more than hidden states")
        return output

    def linear_inputs(
        self, block: int, weights: dict[str, Tensor], call: BlockCall, hidden: Tensor
    ) -> dict[str, list[Tensor]]:
        """Run one block and return what each of its linear layers, by full name, was given: ``[..., K]`` per use.

        Layers that share an input (query, key and value) are given the same tensor.

        Raises:
            InputError: If one of them is not used.
        """
        seen: dict[str, list[Tensor]] = {}
        handles = []
        prefix = self.blocks[block]
        for name in self._checkpoint.block_linears(prefix):
            inputs = seen.setdefault(name, [])
            linear = self._real[block].get_submodule(name.removeprefix(f"{prefix}."))
            handles.append(linear.register_forward_pre_hook(partial(_note_input, inputs)))
        try:
            self.run(block, weights, call, hidden)
        finally:
            for handle in handles:
                handle.remove()
        for name, inputs in seen.items():
            if not inputs:
                raise self._unsupported(f"its layer {name} is never used")
        return seen

    def loss(self, last_hidden: Tensor, input_ids: Tensor) -> Tensor:
        """The model's own mean next-token loss, as if its last block had returned ``last_hidden`` ``[1, T, H]``."""
        last = len(self.blocks) - 1
        output = self._run(input_ids, lambda index, hidden: last_hidden if index == last else hidden, labels=input_ids)
        loss: Tensor = output.loss
        return loss

    def _read(self, state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """Read the tensors of a module in the dtypes of its empty state; tied ones share their memory."""
        loaded: dict[str, Tensor] = {}
        for name, empty in state.items():
            source = self._stored_name.get(prefix + name, prefix + name)
            if source not in loaded:
                tensor = self._checkpoint.tensor(source)
                if not bool(tensor.isfinite().all()):
                    raise InputError(f"{self._checkpoint.name}: tensor '{source}' holds NaN or infinity")
                loaded[source] = tensor.to(empty.dtype)
        return {name: loaded[self._stored_name.get(prefix + name, prefix + name)] for name in state}

    def _run(self, input_ids: Tensor, output: Callable[[int, Tensor], Tensor], **kwargs: Any) -> Any:
        """Run the model with ``output(index, hidden)`` in the place of each block's output."""
        self._visit = _Visit(output)
        return self._model(input_ids=input_ids, use_cache=False, **kwargs)

    def _answer(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Stand in for a block: note the call and return the chosen output."""
        visit = self._visit
        hidden = args[0] if args else kwargs.pop("hidden_states", None)
        if index != len(visit.calls):
            raise self._unsupported("its blocks are not run once each, in order")
        if not isinstance(hidden, Tensor) or (index > 0 and hidden is not visit.current):
            raise self._unsupported(f"{self.blocks[index]} is given something else than the block before it returned")
        if index == 0:
            visit.first = hidden
        visit.calls.append(BlockCall(args[1:], kwargs))
        visit.current = visit.output(index, hidden)
        return visit.current

    def _check_blocks(self) -> None:
        """Refuse a model whose blocks share more than hidden states.

        Two runs differ in nothing but what the blocks return, the last one excepted. If anything else that a block is
        given, or the logits, differs between them, or is an object through which blocks could talk, the blocks cannot
        be run one by one.
        """
        shape = self._checkpoint.shape
        input_ids = torch.arange(_PROBE_TOKENS).remainder(shape.vocab_size)[None]
        generator = torch.Generator().manual_seed(0)
        final = torch.randn((1, _PROBE_TOKENS, shape.hidden_size), generator=generator)

        def noise(index: int, hidden: Tensor) -> Tensor:
            last = index == len(self.blocks) - 1
            return final if last else torch.randn(hidden.shape, generator=generator)

        logits, calls = [], []
        for _ in range(2):
            try:
                with torch.no_grad():
                    logits.append(self._run(input_ids, noise).logits)
            except InputError:
                raise
            except LOAD_ERRORS as error:
                # Code that expects a tuple from its blocks fails in many ways on a tensor.
                raise self._unsupported(f"{type(error).__name__} where its blocks' outputs are used") from None
            calls.append(self._visit.calls)
        if len(calls[0]) != len(self.blocks):
            raise self._unsupported("its blocks are not run once each, in order")
        for name, first, second in zip(self.blocks, *calls, strict=True):
            if not _same((first.args, tuple(first.kwargs.items())), (second.args, tuple(second.kwargs.items()))):
                raise self._unsupported(f"{name} is given more than the hidden states of the block before it")
        if not torch.equal(*logits):
            raise self._unsupported("its logits depend on more than what the last block returns")

    def _unsupported(self, reason: str) -> InputError:
        return InputError(
            f"{self._checkpoint.name}: cannot be calibrated block by block: {reason}; "
            "use a method that needs no calibration"
        )


class _Stop(Exception):  # noqa: N818 - no error: it ends a run whose remainder is not needed
    """Every block's arguments are known."""


@dataclass
class _Visit:
    """One run around the blocks: what stands for their outputs, and what they were called with."""

    output: Callable[[int, Tensor], Tensor] = lambda index, hidden: hidden
    calls: list[BlockCall] = field(default_factory=list)
    first: Tensor = field(default_factory=lambda: torch.empty(0))
    current: Tensor | None = None


class _Stub(nn.Module):
    """Stands in the place of a block and has its attributes, which models read (``attention_type``)."""

    def __init__(self, block: nn.Module, answer: Callable[[tuple[Any, ...], dict[str, Any]], Tensor]) -> None:
        super().__init__()
        # In a tuple, so that the block's weights are no part of the model any more.
        self._block = (block,)
        self._answer = answer

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._answer(args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block[0], name)


def _note_input(inputs: list[Tensor], _: nn.Module, args: tuple[Tensor, ...]) -> None:
    inputs.append(args[0])


def _same(first: Any, second: Any) -> bool:
    """Whether two arguments are equal and of a kind that cannot carry anything from one block to another."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return isinstance(first, (bool, int, float, str, torch.dtype, type(None))) and bool(first == second)
