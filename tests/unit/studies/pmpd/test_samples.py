from studies.pmpd.samples import write_samples

SAMPLE = {
    "title": "largest gain",
    "prompt": "a prompt",
    "reference": "its reference",
    "answers": {"high": ("some `code`\nand a line", 50.0), "low": ("", 0.0)},
}


def test_text_with_terms_is_named_by_hash_and_answers_are_quoted_on_one_line(tmp_path):
    path = tmp_path / "samples.md"
    write_samples(path, {"ours": ("rouge_l", [SAMPLE]), "theirs": ("rouge_l", [SAMPLE])}, quotable=["ours"])
    ours, theirs = path.read_text().split("## theirs")
    assert "a prompt" in ours
    assert "its reference" in ours
    assert "a prompt" not in theirs
    assert "its reference" not in theirs
    assert "of hash" in theirs
    assert "- **high** (50.0): ``some `code` and a line``" in theirs
    assert "- **low** (0.0): (empty)" in theirs
