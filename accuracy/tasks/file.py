"""A task read from a user's own file."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from accuracy.tasks.base import Example, Split, Task, hashed_split, register_task
from accuracy.tasks.loading import read_records, text_field
from hwsim.trace import InputError, canonical_sha256, file_sha256


@register_task("file")
class FileTask(Task):
    """Prompts and references from a JSON Lines file (or a JSON list), split by the prompts' hashes.

    An object needs a prompt and a reference, both text that is not empty, and may have an id; other fields are
    left alone. Equal prompts fall into one split. Where no object has a reference, responses are compared with the
    full-precision ones instead.
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
            reference_field: Field with the answer wanted; one of another name than the default's must be there.
            id_field: Field with a unique id; the record's number where it is missing.
            template: Text around the prompt, for example ``<s>{prompt}<sep>``.
            max_new_tokens: Bound on a response.

        Warns:
            UserWarning: If no record has a reference.

        Raises:
            InputError: Naming the file, the line or record, the field and what is wrong with it.
        """
        source = Path(path)
        if "{prompt}" not in template:
            raise InputError(f"template = {template!r}: must contain {{prompt}}")
        self.max_new_tokens = max_new_tokens
        self.examples_by_split: dict[Split, list[Example]] = {"calib": [], "val": [], "test": []}
        records = list(read_records(source))
        if records and reference_field == "reference" and not any(reference_field in one for _, one in records):
            self.has_references = False
            self.metrics = ("fidelity_rouge_l", "identical_prefix_tokens")
            warnings.warn(
                f"{source}: no record has a field 'reference'; responses are compared with full precision's "
                "(a reference under another name: --reference-field)",
                stacklevel=2,
            )
        seen: set[str] = set()
        for number, (where, record) in enumerate(records, start=1):
            prompt = text_field(record, prompt_field, where)
            reference = text_field(record, reference_field, where) if self.has_references else None
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
