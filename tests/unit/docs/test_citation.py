"""CITATION.cff says what pyproject.toml and CHANGELOG.md say, in version 1.2.0 of the Citation File Format."""

import datetime
import re
import tomllib

import yaml

from documents import REPOSITORY

CITATION = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_required_fields_are_there_and_no_unknown_ones():
    required = {"cff-version", "message", "title", "authors"}
    optional = {"abstract", "type", "version", "date-released", "license", "keywords", "references"}
    assert required <= CITATION.keys() <= required | optional
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software"


def test_version_and_licence_are_the_projects():
    assert CITATION["version"] == PROJECT["version"]
    assert CITATION["license"] == PROJECT["license"]


def test_the_newest_release_of_the_changelog_is_the_projects_version_and_the_citations_date():
    headings = re.findall(r"^## (.*)$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    releases = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})", heading) for heading in headings[1:]]
    assert all(releases), headings
    dates = [datetime.date.fromisoformat(release[2]) for release in releases]
    assert dates == sorted(dates, reverse=True)
    assert (releases[0][1], dates[0]) == (PROJECT["version"], CITATION["date-released"])


def test_authors_are_the_contributors_as_one_entity_and_the_papers_own():
    assert CITATION["authors"] == [{"name": "The bittaper contributors"}]
    (paper,) = CITATION["references"]
    assert paper["type"] == "article" and paper["url"].endswith("2410.13461")
    assert [person["family-names"] for person in paper["authors"]] == [
        "Chen",
        "Tan",
        "Kouris",
        "Lee",
        "Fan",
        "Venieris",
    ]


def test_the_people_and_the_reference_have_only_fields_of_the_format():
    person = {"family-names", "given-names", "name-particle", "name-suffix", "affiliation", "orcid", "email", "website"}
    reference = {"type", "title", "authors", "year", "identifiers", "url", "doi", "journal", "conference", "month"}
    (paper,) = CITATION["references"]
    assert {"type", "title", "authors"} <= paper.keys() <= reference
    assert all({"family-names", "given-names"} <= one.keys() <= person for one in paper["authors"])
    assert all(
        one.keys() == {"type", "value"} and one["type"] in {"doi", "url", "swh", "other"}
        for one in paper["identifiers"]
    )
    assert isinstance(paper["year"], int) and CITATION["license"] == "Apache-2.0"
