"""A task read from a user's own file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from accuracy.tasks.base import Example, Split, Task, hashed_split, register_task
from accuracy.tasks.loading import read_records, text_field
from hwsim.trace import InputError, canonical_sha256, file_sha256


@register_task("file")
class FileTask(Task):
    """Prompts and references from a JSON Lines file (or a JSON list), split by the prompts' hashes.

    An object needs a prompt and a reference, both text that is not empty, and may have an id; other fields are
    left alone. Equal prompts fall into one split.
    """

    name = "file"

    def __init__(
        self,
        path: Path | str,
        *,
        prompt_field: str = "prompt",
        reference_field: str = "reference",
        id_field: str = "id",
        template: str = "{prompt}",
        max_new_tokens: int = 60,
    ) -> None:
        """Read and check the file.

        Args:
            path: ``.jsonl`` or ``.json``.
            prompt_field: Field that fills the template.
            reference_field: Field with the answer wanted.
            id_field: Field with a unique id; the record's number where it is missing.
            template: Text around the prompt, for example ``<s>{prompt}<sep>``.
            max_new_tokens: Bound on a response.

        Raises:
            InputError: Naming the file, the line or record, the field and what is wrong with it.
        """
        source = Path(path)
        if "{prompt}" not in template:
            raise InputError(f"template = {template!r}: must contain {{prompt}}")
        self.max_new_tokens = max_new_tokens
        self.examples_by_split: dict[Split, list[Example]] = {"calib": [], "val": [], "test": []}
        seen: set[str] = set()
        for number, (where, record) in enumerate(read_records(source), start=1):
            prompt = text_field(record, prompt_field, where)
            reference = text_field(record, reference_field, where)
            example_id = str(record.get(id_field, number))
            if example_id in seen:
                raise InputError(f"{where}: {id_field} = {example_id!r} appears twice; ids must differ")
            seen.add(example_id)
            text = template.replace("{prompt}", prompt)
            self.examples_by_split[hashed_split(text)].append(Example(example_id, text, reference))
        if not seen:
            raise InputError(f"{source}: holds no record")
        form = canonical_sha256([file_sha256(source), prompt_field, reference_field, id_field, template])
        self.version = form[:16]

    def _stream(self, split: Split) -> Iterable[Example]:
        return self.examples_by_split[split]
