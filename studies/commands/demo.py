"""``bittaper demo``: a local page that decodes, and simulates what it decoded."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from studies.commands.options import add_quiet
from studies.common.decoding import add_device, chosen_device, chosen_dtype

HELP = """a local page: a model answers in mixed precision, an NPU replays what it did

The page is served on 127.0.0.1 only, and asks nobody else for anything. Without --model it is the shipped model, which
is quantised once, in some 10 s.

examples:
  bittaper demo
  bittaper demo --model path/to/store --checkpoint path/to/scheduler --npu flightllm-u280
  bittaper demo --model path/to/model --device cpu --port 8000
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--model", help="nested store, model folder or hub name (quantised first), or a .json map (default: shipped)"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help="of bittaper train-scheduler: the learned scheduler offered (default: the shipped model's)",
    )
    parser.add_argument("--npu", default="pmpd-4k", help="NPU chosen at first: a name or a YAML file (default pmpd-4k)")
    parser.add_argument("--port", type=int, help="(default: the first free one from 7860 on)")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="where stores are kept that it quantises (default ~/.cache/bittaper)",
    )
    add_device(parser)
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Prepare the model and serve until Ctrl-C."""
    from hwsim import load_npu
    from studies.demo.server import choose_port, load_gradio, serve

    # What a slip of the pen can spoil comes before what takes seconds.
    port = choose_port(args.port)
    load_npu(args.npu)
    load_gradio()
    from studies.demo.conversation import Engine
    from studies.demo.model import default_cache, prepare_model

    device, dtype = chosen_device(args), chosen_dtype(args)
    prepare = partial(prepare_model, args.model, args.cache or default_cache(), progress=not args.quiet)
    engine = Engine(prepare(device, dtype), args.checkpoint, on_cpu=partial(prepare, "cpu"))
    serve(engine, args.npu, port)
