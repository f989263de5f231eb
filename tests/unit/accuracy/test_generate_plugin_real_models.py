"""The plug-in against our own loop on trained models, quantised here; those beside the checkout may be missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from accuracy.decoding import Decoder, Prompt, Sampling
from accuracy.decoding.generate_plugin import generate_with_schedule
from accuracy.decoding.streaming import final_text
from accuracy.model import LanguageModel, load_model
from accuracy.quantization import NestedSettings, quantize
from accuracy.reference import MODEL_FOLDER, TASK_NAME
from accuracy.schedulers import StaticScheduler
from accuracy.tasks import Task, make_task
from hwsim.trace import Schedule

pytestmark = pytest.mark.slow
SCHEDULE = Schedule.from_pairs(4, [(0, 4), (6, 3), (15, 2)])
NAMES = ("shipped", "stories260K", "m30k-fren-2M", "fren-paragraphs-4M")
BOUND = 24


@pytest.fixture(scope="module", params=NAMES)
def subject(request, tmp_path_factory) -> tuple[Path, list[Prompt]]:
    """A nested store, and prompts of the kind that its model was trained on."""
    if request.param == "shipped":
        folder = MODEL_FOLDER
    else:
        folder = request.getfixturevalue("shared_data") / "models" / request.param
    store = tmp_path_factory.mktemp("stores") / request.param
    quantize(folder, store, NestedSettings(max_bits=4), progress=False)
    lm = load_model(folder)
    task = make_prompts(request.param, folder, lm)
    prompts = [
        Prompt(example.id, tuple(task.encode(lm.tokenizer, example.prompt)), BOUND)
        for example in task.examples("test", 5)
    ]
    return store, prompts


def make_prompts(name: str, folder: Path, lm: LanguageModel) -> Task:
    if name == "shipped":
        return make_task(TASK_NAME)
    if name == "stories260K":
        return make_task("self-completion", lm=lm, max_new_tokens=BOUND)
    if name == "m30k-fren-2M":
        return make_task("parallel-text", folder=folder.parents[1] / "text" / "multi30k")
    path = folder / "heldout_paragraphs.json"
    return make_task("file", path=path, prompt_field="source", template="<s>{prompt}<sep>")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("sampling", [None, Sampling(top_p=0.95, seed=3)])
def test_generate_gives_our_tokens_at_batch_1_and_the_stream_gives_the_text(subject, dtype, sampling):
    store, prompts = subject
    lm = load_model(store, dtype=dtype)
    streamed: dict[str, list[str]] = {prompt.id: [] for prompt in prompts}
    own = Decoder(lm).decode(
        prompts,
        StaticScheduler(SCHEDULE),
        sampling=sampling,
        on_token=lambda token: streamed[token.prompt_id].append(token.text),
    )
    for prompt, response in zip(prompts, own, strict=True):
        out = generate_with_schedule(
            lm,
            torch.tensor([prompt.token_ids]),
            SCHEDULE,
            prompt_ids=[prompt.id],
            sampling=sampling,
            max_new_tokens=BOUND,
            pad_token_id=0,
            **({} if sampling else {"do_sample": False}),
        )
        assert tuple(out[0, len(prompt.token_ids) :].tolist()) == response.tokens
        assert "".join(streamed[prompt.id]) == lm.tokenizer.decode(response.tokens, skip_special_tokens=True)
    assert len({response.tokens for response in own}) > 3


def test_any_tokens_of_the_tokenizer_stream_to_their_text(subject):
    store, _ = subject
    tokenizer = load_model(store).tokenizer
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        tokens = torch.randint(0, len(tokenizer), (12,), generator=generator).tolist()
        whole = tokenizer.decode(tokens, skip_special_tokens=True)
        assert all(whole.startswith(final_text(tokenizer, tokens[: n + 1])) for n in range(len(tokens)))
