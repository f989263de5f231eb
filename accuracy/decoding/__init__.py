"""Decoding: prompts in, responses and the width of every step out."""

from accuracy.decoding.decoder import Decoder, Grid, batches
from accuracy.decoding.sampling import Sampling
from accuracy.decoding.streaming import StreamedToken
from accuracy.decoding.token_stream import TokenStream
from accuracy.decoding.tree import Prompt, Response

__all__ = ["Decoder", "Grid", "Prompt", "Response", "Sampling", "StreamedToken", "TokenStream", "batches"]
