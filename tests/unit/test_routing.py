"""A target's rules: all that are given must match, and why one does not is said in words."""

from __future__ import annotations

import dataclasses

import pytest

from dicom_qa_node.config import Config, InvalidConfig, Peer, parse_config
from dicom_qa_node.config.delivery import Decision, Route, Traits, decide

TRAITS = Traits("PT", "petct", "PETCT2", "ROOM7", "North Hospital", "limited", ("noise_high", "motion"), "10.1.2.3")


def targets(*sections: dict[str, object]):
    return Config.model_validate({"deliver": {"targets": list(sections)}}).deliver.targets


def folder(name: str, **route: object) -> dict[str, object]:
    return {"kind": "folder", "name": name, "path": "/x", "route": route}


def test_no_rule_takes_everything():
    assert Route().mismatch(TRAITS) == ""
    assert Route().mismatch(Traits("CT", "ct", "", "", "", "none")) == ""


@pytest.mark.parametrize(
    "route",
    [
        {"modalities": ["CT", "P?"]},
        {"kinds": ["petct"]},
        {"calling_aes": ["PET*"]},
        {"stations": ["ROOM[5-9]"]},
        {"scanners": ["ROOM7"]},
        {"institutions": ["* Hospital"]},
        {"grades": ["non-diagnostic", "limited"]},
        {"findings": ["motion*"]},
        {"modalities": ["PT"], "findings": ["noise_*"], "grades": ["limited"]},
    ],
)
def test_a_rule_matches(route):
    assert Route.model_validate(route).mismatch(TRAITS) == ""


@pytest.mark.parametrize(
    ("route", "why"),
    [
        ({"modalities": ["CT"]}, "modalities: PT is none of CT"),
        ({"kinds": ["ct", "pt"]}, "kinds: petct is none of ct, pt"),
        ({"calling_aes": ["petct2"]}, "calling_aes: PETCT2 is none of petct2"),
        ({"stations": ["ROOM"]}, "stations: ROOM7 is none of ROOM"),
        ({"scanners": ["PETCT2"]}, "scanners: ROOM7 is none of PETCT2"),
        ({"institutions": ["South*"]}, "institutions: North Hospital is none of South*"),
        ({"grades": ["none"]}, "grades: limited is none of none"),
        ({"findings": ["truncation"]}, "findings: noise_high, motion is none of truncation"),
        ({"modalities": ["PT"], "grades": ["diagnostic"]}, "grades: limited is none of diagnostic"),
    ],
)
def test_a_rule_that_does_not_match_says_why(route, why):
    assert Route.model_validate(route).mismatch(TRAITS) == why


def test_what_a_series_does_not_have_matches_no_rule():
    bare = Traits("CT", "ct", "SC", "", "", "none")
    assert Route(stations=["*"]).mismatch(bare) == "stations: nothing is none of *"
    assert Route(findings=["*"]).mismatch(bare) == "findings: nothing is none of *"
    assert Route(scanners=["SC"], grades=["none"]).mismatch(bare) == ""


def test_every_target_is_decided_on_its_own():
    found = decide(targets(folder("all"), folder("ct", modalities=["CT"])), [], TRAITS)
    assert found == [Decision("all"), Decision("ct", "modalities: PT is none of CT")]


def test_a_sender_needs_an_entry_with_a_port_and_an_address():
    (back,) = targets({"kind": "sender", "name": "back"})

    def why(traits: Traits, *peers: Peer) -> str:
        return decide([back], peers, traits)[0].why_not

    assert why(TRAITS) == "the sender PETCT2 is not in receive.peers"
    assert why(TRAITS, Peer(ae_title="PETCT2")) == "receive.peers gives no port for the sender PETCT2"
    known = Peer(ae_title=" PETCT2 ", port=104)
    assert why(dataclasses.replace(TRAITS, host=""), known) == "the address of the sender PETCT2 is not known"
    assert why(TRAITS, known) == ""
    assert decide(
        targets({"kind": "sender", "name": "back", "route": {"modalities": ["CT"]}}), [known], TRAITS
    ) == [Decision("back", "modalities: PT is none of CT")]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{kind: folder, name: a, path: /x, route: {grades: [good]}}", "route.grades[0]: expected list of diagnostic"),
        ("{kind: folder, name: a, path: /x, route: {kinds: [mr]}}", "route.kinds[0]: expected list of ct, pt or petct"),
        ("{kind: folder, name: a, path: /x, route: {station: [A]}}", "unknown key; did you mean 'stations'?"),
        ("{kind: folder, name: a, path: /x, route: {stations: ['[A']}}", "has a [ that is not closed"),
        ("{kind: folder, name: a, path: /x, route: {stations: [' A']}}", "begins or ends with a space"),
        ("{kind: folder, name: a, path: /x, route: {stations: A}}", "route.stations: expected list of text"),
        ("{kind: dicomweb, name: a, url: 'ftp://x'}", "url: expected address of the DICOMweb service"),
        ("{kind: dicomweb, name: a, url: 'https://x', user: u}", "user and password_file go together"),
        ("{kind: dicomweb, name: a, url: 'http://x', bearer_token_file: /t}", "credentials need an https:// address"),
        ("{kind: dicomweb, name: a, url: 'https://u:geheim@x'}", "url: expected address"),
        (
            "{kind: dicomweb, name: a, url: 'https://x', user: u, password_file: /p, bearer_token_file: /t}",
            "either user and password_file, or bearer_token_file",
        ),
    ],
)
def test_wrong_rules_and_addresses_are_found_when_the_file_is_read(line, problem):
    with pytest.raises(InvalidConfig) as caught:
        parse_config(f"deliver:\n  targets:\n    - {line}\n")
    assert problem in str(caught.value)
    assert "geheim" not in str(caught.value)
