"""A decoder whose decode step touches device memory only: token in, next token out, nothing waits for the host.

One step runs, per block, seven launches: norm, QKV GEMV, attention (rotary embedding and KV append included), output
GEMV with the residual, norm, gate+up GEMV with SiLU, down GEMV with the residual; then the last norm, lm_head and the
choice of the token. Token, position and KV cache are static buffers, so that a step can be captured in a CUDA graph,
one for each width (:mod:`kernels.graph`). Prefill runs on torch's attention and the prefill kernels and fills the same
cache. Without a GPU the kernels can run on, the same step runs in plain torch (:mod:`kernels.fallback`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.decoder_weights import FULL_BITS, DecoderWeights, LinearWeight, NormWeight
from kernels.dispatch import device_obstacle, obstacle
from kernels.dispatch import linear as packed_linear
from kernels.dispatch import swiglu_linear as packed_swiglu_linear
from kernels.errors import KernelError
from kernels.graph import PrecisionGraphs
from kernels.rotary import rotate
from kernels.shapes import DecoderShape
from kernels.step_ops import step_ops

if TYPE_CHECKING:
    from torch import Tensor

MAX_BATCH = 8


@dataclass(frozen=True)
class Prefilled:
    """What a prefill leaves for whoever plans the response.

    Attributes:
        logits: Scores of token 0, ``[vocab]``.
        activations: By block, what went into the attention's output projection, ``[T, heads * head_dim]``.
    """

    logits: Tensor
    activations: dict[int, Tensor]


class KernelDecoder:
    """Decodes up to eight sequences in step, greedily: the token of lowest id among the largest logits.

    Position p of a sequence is that of its p-th token, prompt first. A step feeds ``token`` at ``position``: it appends
    to the cache there, and writes the next token to ``tokens[:, position + 1]``.

    Attributes:
        shape: The decoder's dimensions.
        weights: What it reads.
        widths: The widths a step can run at, rising.
        capacity: Positions the cache holds.
        token: ``[B]`` int64, fed by the next step.
        position: ``[B]`` int64, where.
        tokens: ``[B, capacity + 1]`` int64, prompt and response.
        logits: ``[B, vocab]``, of the last step.
        keys: ``[layers, B, kv_heads, capacity, head_dim]``.
        values: As ``keys``.
    """

    def __init__(
        self,
        shape: DecoderShape,
        weights: DecoderWeights,
        *,
        capacity: int | None = None,
        batch: int = 1,
        kernels: bool | None = None,
    ) -> None:
        """Allocate the buffers, on the device of the weights.

        Args:
            shape: The decoder.
            weights: Fitting it.
            capacity: Positions the cache holds; ``shape.max_context`` by default.
            batch: Sequences decoded together, 1..8.
            kernels: Whether the Triton kernels run between the linears; where the device can, by default.

        Raises:
            KernelError: If the weights do not fit the shape, or a number is out of bounds.
        """
        weights.check(shape)
        if not 1 <= batch <= MAX_BATCH:
            raise KernelError(f"batch = {batch}: must be 1..{MAX_BATCH}, the sequences one GEMV takes")
        self.shape, self.weights, self.widths = shape, weights, weights.widths
        self._batch = batch
        self._device = weights.embedding.device
        self._ops = step_ops(device_obstacle(self._device) is None if kernels is None else kernels)
        self._packed_linears = obstacle(weights.embedding) is None
        self._graphs: PrecisionGraphs | None = None
        self.keys: Tensor
        self.values: Tensor
        self.reserve(shape.max_context if capacity is None else capacity)

    def reserve(self, capacity: int) -> None:
        """Replace the buffers by ones that hold ``capacity`` positions; graphs and cached sequences are dropped.

        Raises:
            KernelError: If the rotary tables have fewer positions.
        """
        import torch

        positions = self.weights.rotary.positions
        if not 1 <= capacity <= positions:
            raise KernelError(f"capacity = {capacity}: must be 1..{positions}, the positions of the rotary tables")
        shape, B, like = self.shape, self._batch, self.weights.embedding
        # The old ones first, so that both never take memory at once.
        if self._graphs is not None:
            self._graphs.release()
            self.keys = self.values = like
        # Never inference tensors: they outlive the mode that may be on.
        with torch.inference_mode(False):
            self.keys = like.new_zeros((shape.layers, B, shape.kv_heads, capacity, shape.head_dim))
            self.values = torch.zeros_like(self.keys)
            self.logits = like.new_zeros((B, shape.vocab))
            self.token, self.position = (torch.zeros(B, dtype=torch.int64, device=self._device) for _ in range(2))
            self.tokens = torch.zeros((B, capacity + 1), dtype=torch.int64, device=self._device)
        self.capacity = capacity
        self._graphs = PrecisionGraphs(self.step, self.widths, self._device, state=(self.token, self.position))
        # As ``position``, known without asking the device.
        self._positions = [0] * B

    @property
    def filled(self) -> int:
        """Position of the furthest sequence."""
        return max(self._positions)

    @property
    def graphs(self) -> PrecisionGraphs:
        """The captured steps."""
        assert self._graphs is not None
        return self._graphs

    def prepare(self, widths: Sequence[int] | None = None) -> None:
        """Capture the steps of some widths now, of all by default; ends a response whose cache is full.

        Raises:
            KernelError: As :meth:`kernels.graph.PrecisionGraphs.prepare`.
        """
        if self.filled >= self.capacity:
            # A capture runs the step once, for which there is no place at the end.
            self.place(0, 0)
        self.graphs.prepare(widths)

    def run(self, weight_bits: int) -> None:
        """Run one step by its graph; on a CPU directly.

        Raises:
            KernelError: If the cache is full, or as :meth:`kernels.graph.PrecisionGraphs.run`.
        """
        if self.filled >= self.capacity:
            raise KernelError(f"position {self.filled}: the cache holds {self.capacity}; reserve a larger capacity")
        self.graphs.run(weight_bits)
        self._positions = [position + 1 for position in self._positions]

    def check_fits(self, positions: int, steps: int) -> None:
        """Refuse a single response of ``steps`` decode steps after ``positions`` positions that would not fit.

        Raises:
            KernelError: If the cache is too small, or several sequences are decoded together.
        """
        if self._batch != 1:
            raise KernelError(f"batch = {self._batch}: a response is decoded alone; use a decoder of batch 1")
        if positions + steps > self.capacity:
            raise KernelError(
                f"{positions} positions + {steps} decode steps = {positions + steps}: the cache holds {self.capacity}; "
                "reserve a larger capacity"
            )

    def place(self, token: int, position: int) -> None:
        """Let the next step feed ``token`` at ``position`` in every sequence, whatever the cache holds before it.

        Raises:
            KernelError: If the token is not in the vocabulary or the position not in the cache.
        """
        self._check_tokens([token])
        if not 0 <= position < self.capacity:
            raise KernelError(f"position = {position}: must be 0..{self.capacity - 1}, the positions of the cache")
        self.token.fill_(token)
        self.position.fill_(position)
        self._positions = [position] * self._batch

    def prefill(
        self, prompt: Sequence[int], weight_bits: int, *, sequence: int = 0, captured_blocks: Collection[int] = ()
    ) -> Prefilled:
        """Run a prompt: fill the cache, choose token 0, and make it the one the next step feeds.

        Args:
            prompt: Token ids, at least one.
            weight_bits: Width of the prefill.
            sequence: Which of the sequences decoded together answers it.
            captured_blocks: Blocks whose attention outputs are wanted.

        Raises:
            KernelError: If the prompt is empty, does not fit the cache with a step after it, or holds an id that is
                not in the vocabulary; or if the width is not stored.
        """
        import torch

        T = len(prompt)
        if not 1 <= T < self.capacity:
            raise KernelError(f"prompt of {T} tokens: must be 1..{self.capacity - 1}; the cache holds {self.capacity}")
        if not 0 <= sequence < self._batch:
            raise KernelError(f"sequence = {sequence}: must be 0..{self._batch - 1}")
        self._check_tokens(prompt)
        self._check_width(weight_bits)
        with torch.no_grad():
            ids = torch.tensor(prompt, dtype=torch.int64, device=self._device)
            activations: dict[int, Tensor] = {}

            def attend(index: int, qkv: Tensor) -> Tensor:
                attended = self._attend_prompt(index, qkv, sequence)
                if index in captured_blocks:
                    activations[index] = attended
                return attended

            hidden = torch.nn.functional.embedding(ids, self.weights.embedding)
            logits = self._scores(self._blocks(hidden, weight_bits, attend)[-1:])[0]
            chosen = logits.argmax(-1)
            self.logits[sequence] = logits
            self.token[sequence] = chosen
            self.position[sequence] = T
            self.tokens[sequence, :T] = ids
            self.tokens[sequence, T] = chosen
        self._positions[sequence] = T
        return Prefilled(logits, activations)

    def step(self, weight_bits: int) -> None:
        """Decode one token of every sequence; device work only, as :class:`kernels.graph.PrecisionGraphs` wants it.

        Use :meth:`run`, which counts positions: past the cache's end a step is not defined.
        """
        import torch

        with torch.no_grad():
            hidden = torch.nn.functional.embedding(self.token, self.weights.embedding)
            hidden = self._blocks(hidden, weight_bits, self._attend)
            self._scores(hidden, self.logits)
            self._ops.choose_token(self.logits, self.token, self.position, self.tokens)

    def _blocks(self, hidden: Tensor, weight_bits: int, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Run hidden states ``[M, hidden]`` through all blocks; ``attend(block, qkv)`` is their attention."""
        for index, block in enumerate(self.weights.blocks):
            x = self._norm(hidden, block.norm)
            attended = attend(index, self._linear(x, block.qkv, weight_bits))
            hidden = self._linear(attended, block.output, weight_bits, hidden)
            if block.mlp_norm is not None:
                x = self._norm(hidden, block.mlp_norm)
            hidden = self._linear(self._inner(x, block.up, weight_bits), block.down, weight_bits, hidden)
        return hidden

    def _attend(self, index: int, qkv: Tensor) -> Tensor:
        """One new token of every sequence."""
        return self._ops.attend(qkv, self.keys[index], self.values[index], self.position, self.weights.rotary)

    def _attend_prompt(self, index: int, qkv: Tensor, sequence: int) -> Tensor:
        """A whole prompt ``[T, ...]`` of one sequence, whose keys and values fill the front of its cache."""
        import torch

        shape, T = self.shape, len(qkv)
        heads, kv_heads = shape.heads, shape.kv_heads
        cos, sin = self.weights.rotary.cos[:T], self.weights.rotary.sin[:T]
        by_head = qkv.view(T, heads + 2 * kv_heads, shape.head_dim)
        turned = rotate(by_head[:, : heads + kv_heads], cos, sin).transpose(0, 1)
        query, key, value = turned[:heads], turned[heads:], by_head[:, heads + kv_heads :].transpose(0, 1)
        self.keys[index, sequence, :, :T] = key
        self.values[index, sequence, :, :T] = value
        attended = torch.nn.functional.scaled_dot_product_attention(
            query[None], key[None], value[None], is_causal=True, enable_gqa=heads != kv_heads
        )
        return attended[0].transpose(0, 1).reshape(T, shape.query_width)

    def _linear(self, x: Tensor, linear: LinearWeight, weight_bits: int, residual: Tensor | None = None) -> Tensor:
        """``x W^T + bias + residual``; the residual's memory may become the result's."""
        import torch

        if self._by_kernel(linear, weight_bits):
            assert linear.packed is not None
            return packed_linear(x, linear.packed, weight_bits, linear.bias, addend=residual)
        matrix = linear.matrix(weight_bits, x.dtype)
        if residual is None:
            return torch.nn.functional.linear(x, matrix, linear.bias)
        if linear.bias is None:
            return residual.addmm_(x, matrix.T)
        return residual.add_(torch.nn.functional.linear(x, matrix, linear.bias))

    def _inner(self, x: Tensor, linear: LinearWeight, weight_bits: int) -> Tensor:
        """The MLP up to its last linear, ``[M, ffn]``."""
        import torch

        if self.shape.mlp == "plain":
            return torch.nn.functional.gelu(self._linear(x, linear, weight_bits), approximate="tanh")
        if self._by_kernel(linear, weight_bits):
            assert linear.packed is not None
            return packed_swiglu_linear(x, linear.packed, weight_bits, linear.bias)
        return self._ops.gated_silu(self._linear(x, linear, weight_bits))

    def _by_kernel(self, linear: LinearWeight, weight_bits: int) -> bool:
        """Whether a linear runs on packed weights, rather than on a whole matrix."""
        return self._packed_linears and weight_bits != FULL_BITS and linear.packed is not None

    def _norm(self, x: Tensor, norm: NormWeight) -> Tensor:
        if self.shape.norm == "rms":
            return self._ops.rms_norm(x, norm.weight, self.shape.norm_eps)
        return self._ops.layer_norm(x, norm.weight, norm.bias, self.shape.norm_eps)

    def _scores(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Logits ``[M, vocab]`` of hidden states ``[M, hidden]``."""
        import torch

        x, matrix, bias = self._norm(hidden, self.weights.norm), self.weights.lm_head.T, self.weights.lm_head_bias
        return torch.mm(x, matrix, out=out) if bias is None else torch.addmm(bias, x, matrix, out=out)

    def _check_tokens(self, ids: Sequence[int]) -> None:
        wrong = next((token for token in ids if not 0 <= token < self.shape.vocab), None)
        if wrong is not None:
            raise KernelError(f"token id {wrong}: must be 0..{self.shape.vocab - 1}, the vocabulary")

    def _check_width(self, weight_bits: int) -> None:
        if weight_bits not in self.widths:
            stored = ", ".join(map(str, self.widths))
            raise KernelError(f"weight_bits = {weight_bits}: not stored; stored widths: {stored}")
