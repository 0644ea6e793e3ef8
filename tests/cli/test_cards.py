"""Cards of methods, read from their files."""

from __future__ import annotations

import pytest

from anomaly_suite.cli import cards as module
from anomaly_suite.cli.cards import TASKS, card, cards
from anomaly_suite.cli.catalog import Entry, adapters, catalog

KNOWN = [*cards(), *map(card, adapters())]  # all that list methods shows but for plugins
BY_NAME = {known.name: known for known in cards()}


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_every_method_has_family_task_paper_and_year(known):
    assert known.task == TASKS[known.family]
    assert 1950 < int(known.year) < 2030
    assert known.paper.endswith(known.year)
    assert '"' not in known.paper
    assert len(known.paper) < 60
    assert known.year in known.citation


def test_cards_are_those_of_the_catalogue():
    assert [known.name for known in cards()] == [entry.name for entry in catalog("methods")]
    assert {known.family for known in KNOWN} == TASKS.keys()


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("PaDiM", "Defard et al., ICPR Workshops 2021"),
        ("DAE", "Masci et al., ICANN 2011"),
        ("VAE", "Kingma and Welling, ICLR 2014"),  # the second paper of a file with two classes
        ("PMSACL", "Tian et al., Medical Image Analysis 90, 2023"),  # arXiv:2109.01303 is no year
        ("DeepMIL", "Sultani, Chen and Shah, CVPR 2018"),
    ],
)
def test_the_paper_is_told_in_short(name, paper):
    assert BY_NAME[name].paper == paper


def test_a_method_of_another_package_has_no_paper_but_a_family():
    known = card(Entry("Theirs", "acme.detectors.Theirs", "acme", "Ours."))
    assert known == ("Theirs", "acme", "", "", "", "")


@pytest.mark.parametrize(
    ("citation", "paper"),
    [
        ('Doe et al., "A 2001 Odyssey", ECCV 2022, arXiv:2012.06575; thesis 1999.', "Doe et al., ECCV 2022"),
        ("Doe (A, B; C), CVPR 2020 (D).", "Doe, CVPR 2020"),
        ("no year at all", ""),
        ("", ""),
    ],
)
def test_the_year_is_that_of_the_venue(citation, paper):
    assert module._short(citation, "Doe")[0] == paper
