"""Translation from parallel text files, one sentence a line (Multi30k's form)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from accuracy.tasks.base import Example, Split, Task, prompt_sha256, register_task
from hwsim.trace import InputError, canonical_sha256, file_sha256, read_text

STEMS: dict[Split, str] = {"calib": "train", "val": "val", "test": "test"}
# A sentence of two files belongs to the one read first: test stays whole, the others give way.
PRECEDENCE: tuple[Split, ...] = ("test", "val", "calib")


@register_task("parallel-text")
class ParallelTextTask(Task):
    """Sentence pairs ``train.fr``/``train.en``, ``val.*`` and one ``test*.*`` of a folder."""

    name = "parallel-text"
    metrics = ("bleu", "rouge_l")

    def __init__(
        self,
        folder: Path | str,
        *,
        source: str = "fr",
        target: str = "en",
        template: str = "<s>{prompt}<sep>",
        max_new_tokens: int = 60,
    ) -> None:
        """Read the files.

        Args:
            folder: Where they lie.
            source: Ending of the files to translate from.
            target: Ending of the files to translate into.
            template: Text around a sentence.
            max_new_tokens: Bound on a response.

        Raises:
            InputError: If a file is missing, the two sides have different numbers of lines, or a line is empty.
        """
        if "{prompt}" not in template:
            raise InputError(f"template = {template!r}: must contain {{prompt}}")
        self.max_new_tokens = max_new_tokens
        self._examples: dict[Split, list[Example]] = {}
        seen: set[str] = set()
        hashes = [source, target, template]
        for split in PRECEDENCE:
            path = _find(Path(folder), STEMS[split], source)
            other = path.with_suffix(f".{target}")
            sentences, references = _read(path), _read(other)
            if len(sentences) != len(references):
                raise InputError(
                    f"{path}: {len(sentences)} lines, {other.name} has {len(references)}: they must be equal"
                )
            chosen = []
            for number, (sentence, reference) in enumerate(zip(sentences, references, strict=True), start=1):
                for file, text in ((path, sentence), (other, reference)):
                    if not text:
                        raise InputError(f"{file}:{number}: empty; remove this line from {path.name} and {other.name}")
                identity = prompt_sha256(sentence)
                if identity not in seen:
                    seen.add(identity)
                    prompt = template.replace("{prompt}", sentence)
                    chosen.append(Example(f"{path.stem}-{number}", prompt, reference))
            self._examples[split] = chosen
            hashes += [file_sha256(path), file_sha256(other)]
        self.version = canonical_sha256(hashes)[:16]

    def _stream(self, split: Split) -> Iterable[Example]:
        return self._examples[split]


def _find(folder: Path, stem: str, ending: str) -> Path:
    found = sorted(folder.glob(f"{stem}*.{ending}"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{folder}: needs one file {stem}*.{ending}, found: {names}")
    return found[0]


def _read(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).removesuffix("\n").split("\n")]
