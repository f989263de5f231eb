"""What a quantiser learns from calibration text: Fisher information or layer inputs, one decoder block at a time.

A calibrator walks over the blocks of a checkpoint. Its whole state (the hidden states and gradients between two blocks)
is in the files of one folder, so that a run that is killed goes on where it was and finds the same numbers to the bit.
Texts are run one at a time, unpadded.

Memory: embeddings and lm_head in float32; one block in float32, for ``fisher`` twice more (a text's gradients, the sum
of their squares), for ``hessian`` also the sums ``[K, K]`` of each distinct input and the quantised weights; and the
activations of one text within a block, or its logits about four times. For the blocks of a 7B Llama and a text of 512
tokens that is 1.0 GB, 2.4 GB (or 1.9 GB) and 0.3 GB; the whole process peaked at 4.7 GB (4.0 GB) resident, one run
each, torch 2.13 on a CPU. It does not grow with the number of blocks or texts. Pages of the state's files that the
system keeps cached may count as resident too; it takes them back when memory is short.

Disk: texts x tokens x hidden size x 4 bytes for each boundary between blocks: ``fisher`` keeps blocks + 2 of them,
``hessian`` two, ``none`` nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from accuracy.model import load_tokenizer, quiet_transformers
from accuracy.quantization.blockwise import BlockCall, BlockwiseModel
from accuracy.quantization.calibration_state import CalibrationState
from accuracy.quantization.checkpoint import Checkpoint
from hwsim.trace import InputError, unknown_name

MAX_TOKENS = 512


class Calibrator(Protocol):
    """A statistic of the linear layers, block by block: ``measure`` a block, quantise it, ``advance`` past it."""

    @property
    def order(self) -> Sequence[int]:
        """The blocks that are still to be done, in the order in which to do them."""

    def measure(self, block: int) -> dict[str, Tensor]:
        """The statistic of every linear layer of the next block, by full name, float32; none for ``"none"``.

        It may be asked for again until the calibration moves on, and is then the same.

        Raises:
            InputError: If a value is not finite.
        """

    def advance(self, block: int, quantized: Mapping[str, Tensor]) -> None:
        """Move past the next block; durable before it returns.

        Args:
            block: Its index.
            quantized: For ``"hessian"`` the dequantised weights ``[N, K]`` of all its linear layers, by full name;
                not read for the others.
        """


def make_calibrator(
    statistic: str,
    checkpoint: Checkpoint,
    texts: Sequence[str],
    state_folder: Path,
    *,
    max_tokens: int = MAX_TOKENS,
    progress: bool = True,
) -> Calibrator:
    """Start a calibration, or go on with the one whose state is in the folder.

    Args:
        statistic: ``"none"``; ``"fisher"``: the diagonal of the empirical Fisher information, ``[N, K]`` per layer;
            ``"hessian"``: the second moment of the layer's inputs, ``[K, K]``.
        checkpoint: The unquantised model.
        texts: Calibration texts, each cut to ``max_tokens`` and to the model's context; not read for ``"none"``.
        state_folder: Where to keep the state; the caller removes it in the end.
        max_tokens: Longest part of a text that is read.
        progress: Show progress bars.

    Raises:
        InputError: If the statistic is unknown, there is no text, a text has fewer than two tokens, the model cannot
            be run block by block, or the folder holds the state of another calibration.
    """
    if statistic not in ("none", "fisher", "hessian"):
        raise unknown_name("statistic", statistic, ("none", "fisher", "hessian"))
    if statistic != "none" and not texts:
        raise InputError(f"statistic '{statistic}': needs calibration texts; give some or use statistic 'none'")
    tokens = [] if statistic == "none" else _tokenize(checkpoint, texts, max_tokens)
    identity = {
        "model_sha256": checkpoint.model_sha256,
        "statistic": statistic,
        "tokens": [ids[0].tolist() for ids in tokens],
    }
    lengths = [ids.shape[1] for ids in tokens]
    state = CalibrationState(state_folder, identity, checkpoint.shape.hidden_size, lengths)
    if statistic == "none":
        return _NoStatistic(range(len(checkpoint.blocks)), state)
    kind = _Fisher if statistic == "fisher" else _Hessian
    return kind(checkpoint, state, tokens, progress)


def _tokenize(checkpoint: Checkpoint, texts: Sequence[str], max_tokens: int) -> list[Tensor]:
    """Token ids ``[1, T]`` of every text."""
    tokenizer = load_tokenizer(str(checkpoint.folder), checkpoint.name)
    limit = min(max_tokens, checkpoint.shape.max_context)
    # Texts longer than the context are cut here; the tokenizer need not warn of them.
    with quiet_transformers():
        tokens: list[Tensor] = [tokenizer(text, return_tensors="pt").input_ids[:, :limit] for text in texts]
    for number, ids in enumerate(tokens):
        if ids.shape[1] < 2:
            raise InputError(f"calibration text {number} has {ids.shape[1]} tokens; must have at least 2")
    return tokens


class _Walk:
    """A walk over the blocks, its position kept on disk."""

    def __init__(self, blocks: range, state: CalibrationState) -> None:
        self._blocks = blocks
        self._state = state

    @property
    def order(self) -> Sequence[int]:
        return self._blocks[self._state.done :]

    def _check_next(self, block: int) -> None:
        if block not in self.order[:1]:
            raise ValueError(f"block {block}: not the next one; still to be done, in order: {list(self.order)}")


class _NoStatistic(_Walk):
    """Measures nothing."""

    def measure(self, block: int) -> dict[str, Tensor]:
        self._check_next(block)
        return {}

    def advance(self, block: int, quantized: Mapping[str, Tensor]) -> None:
        self._check_next(block)
        self._state.finish(self._state.done + 1)


class _TextWalk(_Walk):
    """A walk with calibration text. The state's array ``hidden-i`` is what enters block i."""

    def __init__(
        self, checkpoint: Checkpoint, blocks: range, state: CalibrationState, tokens: list[Tensor], progress: bool
    ) -> None:
        super().__init__(blocks, state)
        self._model = BlockwiseModel(checkpoint)
        self._linears = [tuple(checkpoint.block_linears(name)) for name in checkpoint.blocks]
        self._tokens = tokens
        self._progress = progress
        if state.done == 0 and not state.has("hidden-0"):
            with state.write("hidden-0") as append:
                for ids in tokens:
                    append(self._model.record(ids)[0])

    def _weight(self, block: int, linear: str) -> str:
        """Name of a linear layer's weight within its block."""
        return f"{linear.removeprefix(f'{self._model.blocks[block]}.')}.weight"

    def _bar(self, task: str) -> Iterator[Tensor]:
        """The token ids of one text after the other, under a progress bar that goes away in the end."""
        return iter(tqdm(self._tokens, desc=task, unit="text", leave=False, disable=not self._progress))

    def _texts(self, block: int, task: str) -> Iterator[tuple[BlockCall, Tensor]]:
        """For each text, what a block is called with and the hidden states that enter it."""
        bar = self._bar(f"{self._model.blocks[block]} {task}")
        for ids, hidden in zip(bar, self._state.read(f"hidden-{block}"), strict=True):
            yield self._model.record(ids)[1][block], hidden

    @torch.no_grad()
    def _forward(self, block: int, weights: dict[str, Tensor]) -> None:
        """Run a block over all texts and write what enters the next one."""
        with self._state.write(f"hidden-{block + 1}") as append:
            for number, (call, hidden) in enumerate(self._texts(block, "forward")):
                output = self._model.run(block, weights, call, hidden)
                if not bool(output.isfinite().all()):
                    name = self._model.blocks[block]
                    raise InputError(f"{name}: its output for calibration text {number} overflows float32")
                append(output)


class _Fisher(_TextWalk):
    """Squared gradients of each text's mean next-token loss, summed over the texts; last block to first.

    That is the second-order weight of a weight's error: loss increase ~ 1/2 sum F_ii (w_i - q_i)^2. One pass over the
    weights writes what enters every block; one back turns the gradient of what leaves a block, ``gradient-(i+1)``, into
    those of its weights and of what enters it, ``gradient-i``. All are the unquantised model's.

    Source: Kim et al., "SqueezeLLM", arXiv:2306.07629, section 4.1.
    """

    def __init__(self, checkpoint: Checkpoint, state: CalibrationState, tokens: list[Tensor], progress: bool) -> None:
        blocks = range(len(checkpoint.blocks))
        super().__init__(checkpoint, blocks[::-1], state, tokens, progress)

    def measure(self, block: int) -> dict[str, Tensor]:
        self._check_next(block)
        if self._state.done == 0:
            self._reach_loss()
        weights = self._model.weights(block)
        watched = [weights[self._weight(block, name)].requires_grad_() for name in self._linears[block]]
        sums = {name: torch.zeros(weight.shape) for name, weight in zip(self._linears[block], watched, strict=True)}
        with self._state.write(f"gradient-{block}") as append:
            texts = zip(self._texts(block, "fisher"), self._state.read(f"gradient-{block + 1}"), strict=True)
            for (call, hidden), above in texts:
                output = self._model.run(block, weights, call, hidden.requires_grad_())
                below, *gradients = torch.autograd.grad(output, [hidden, *watched], above, materialize_grads=True)
                append(below)
                for total, gradient in zip(sums.values(), gradients, strict=True):
                    total.add_(gradient.square_())
            for name, total in sums.items():
                if not bool(total.isfinite().all()):
                    raise InputError(f"{name}: squared gradients are not finite; use statistic 'none'")
        return sums

    def advance(self, block: int, quantized: Mapping[str, Tensor]) -> None:
        self._check_next(block)
        if not self._state.has(f"gradient-{block}"):
            raise ValueError(f"block {block}: must be measured before the calibration moves past it")
        self._state.finish(self._state.done + 1)
        self._state.remove(f"hidden-{block}")
        self._state.remove(f"gradient-{block + 1}")

    def _reach_loss(self) -> None:
        """Run all texts through all blocks and write the gradient of what leaves the last one."""
        end = len(self._linears)
        if self._state.has(f"gradient-{end}"):
            return
        for block in range(end):
            if not self._state.has(f"hidden-{block + 1}"):
                self._forward(block, self._model.weights(block))
        with self._state.write(f"gradient-{end}") as append:
            texts = zip(self._bar("loss"), self._state.read(f"hidden-{end}"), strict=True)
            for number, (ids, hidden) in enumerate(texts):
                loss = self._model.loss(hidden.requires_grad_(), ids)
                if not bool(loss.isfinite()):
                    raise InputError(f"calibration text {number}: its loss is {loss.item()}; must be finite")
                append(torch.autograd.grad(loss, hidden)[0])
        self._state.remove(f"hidden-{end}")


class _Hessian(_TextWalk):
    """H = 2/n sum x x^T over the n input rows x of a linear layer in all texts; first block to last.

    It is the Hessian of an output's mean squared error in its row of weights. A block is measured with its own
    unquantised weights on what leaves the quantised blocks before it. Products and sums are float32; layers that share
    their input share the tensor.

    Source: Frantar et al., "GPTQ", arXiv:2210.17323, section 3.1.
    """

    def __init__(self, checkpoint: Checkpoint, state: CalibrationState, tokens: list[Tensor], progress: bool) -> None:
        super().__init__(checkpoint, range(len(checkpoint.blocks)), state, tokens, progress)

    @torch.no_grad()
    def measure(self, block: int) -> dict[str, Tensor]:
        self._check_next(block)
        weights = self._model.weights(block)
        sums: dict[str, Tensor] = {}
        rows = dict.fromkeys(self._linears[block], 0)
        # The first layer with the same input, for every layer.
        leaders: dict[str, str] = {}
        for call, hidden in self._texts(block, "hessian"):
            inputs = self._model.linear_inputs(block, weights, call, hidden)
            if not leaders:
                first = {tuple(map(id, given)): name for name, given in reversed(inputs.items())}
                leaders = {name: first[tuple(map(id, given))] for name, given in inputs.items()}
            for name in set(leaders.values()):
                for given in inputs[name]:
                    x = given.reshape(-1, given.shape[-1])
                    if name not in sums:
                        sums[name] = torch.zeros(x.shape[1], x.shape[1])
                    sums[name].addmm_(x.T, x)
                    rows[name] += len(x)
        for name, total in sums.items():
            total.mul_(2 / rows[name])
            if not bool(total.isfinite().all()):
                raise InputError(f"{name}: the squares of its inputs are not finite; use statistic 'none'")
        return {name: sums[leader] for name, leader in leaders.items()}

    def advance(self, block: int, quantized: Mapping[str, Tensor]) -> None:
        self._check_next(block)
        weights = self._model.weights(block)
        for name in self._linears[block]:
            weights[self._weight(block, name)] = quantized[name].to(torch.float32)
        self._forward(block, weights)
        self._state.finish(self._state.done + 1)
        self._state.remove(f"hidden-{block}")
