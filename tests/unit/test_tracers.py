"""Tracers by their code, scheme and value together, and by the names in use."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from dicom_qa_node.score.tracers import Tracer, administered, is_fdg, nuclide_of, tracer_of
from tests.unit.made_headers import coded, header


def injected(name="", drug=None, nuclide=None):
    made = header(Radiopharmaceutical=name)
    if drug:
        made.RadiopharmaceuticalCodeSequence = coded(*drug)
    if nuclide:
        made.RadionuclideCodeSequence = coded(*nuclide)
    return header(RadiopharmaceuticalInformationSequence=[made])


@pytest.mark.parametrize(
    ("drug", "tracer"),
    [
        (("35321007", "SCT"), Tracer.FDG),
        (("C-B1031", "SRT"), Tracer.FDG),
        (("C-B1031", "SNM3"), Tracer.FDG),
        # the value without its scheme says nothing
        (("35321007", "DCM"), Tracer.OTHER),
        # Pittsburgh compound B, once taken for FDG
        (("126500", "DCM", "Pittsburgh compound B C^11^"), Tracer.AMYLOID),
        (("126758", "DCM"), Tracer.PSMA),
        (("C118961", "NCIt"), Tracer.PSMA),
        (("424708001", "SCT"), Tracer.FET),
        (("129502002", "SCT"), Tracer.FLT),
        (("724025002", "SCT"), Tracer.DOTA),
        (("129503007", "SCT"), Tracer.RUBIDIUM),
        (("129508003", "SCT"), Tracer.AMMONIA),
        (("129505000", "SCT"), Tracer.WATER),
    ],
)
def test_tracer_by_code_and_scheme(drug, tracer):
    assert tracer_of(injected(drug=drug)) is tracer
    assert is_fdg(injected(drug=drug)) is (tracer is Tracer.FDG)


@pytest.mark.parametrize(
    ("name", "tracer"),
    [
        ("FDG -- fluorodeoxyglucose", Tracer.FDG), ("Fluorodeoxyglucose F^18^", Tracer.FDG), ("[18F]FDG", Tracer.FDG),
        ("FLUORO-2-DEOXY-D-GLUCOSE", Tracer.FDG), ("2-[18F]fluoro-D-glucose", Tracer.FDG),
        ("2-deoxy-2-[18F]fluoro-D-glucose", Tracer.FDG), ("Fludeoxyglucose F18", Tracer.FDG),
        ("68Ga-PSMA-11", Tracer.PSMA), ("18F-DCFPyL", Tracer.PSMA), ("DOTATOC Ga68", Tracer.DOTA),
        ("Fluorothymidine", Tracer.FLT), ("O-(2-[18F]fluoroethyl)-L-tyrosine", Tracer.FET), ("11C-PiB", Tracer.AMYLOID),
        ("82Rb", Tracer.RUBIDIUM), ("NH3", Tracer.AMMONIA), ("13N-Ammonia", Tracer.AMMONIA), ("H2 15O", Tracer.WATER),
        ("NaF", Tracer.SODIUM_FLUORIDE), ("Zr-89 girentuximab", Tracer.ANTIBODY), ("Xenonol", Tracer.OTHER),
        ("", None), ("F-18", None), ("Solution", None),
    ],
)  # fmt: skip
def test_tracer_by_name(name, tracer):
    assert tracer_of(injected(name)) is tracer


def test_an_unnamed_tracer_is_taken_for_fdg_only_where_the_nuclide_allows_it():
    assert is_fdg(Dataset())
    assert is_fdg(injected(nuclide=("77004003", "SCT")))
    assert not is_fdg(injected(nuclide=("C-131A3", "SRT")))


@pytest.mark.parametrize(
    ("found_in", "symbol"),
    [
        (injected(nuclide=("77004003", "SCT")), "F-18"),
        (injected(nuclide=("C-111A1", "SRT")), "F-18"),
        (injected("89Zr trastuzumab"), "Zr-89"),
        (injected("Gallium-68 DOTATATE"), "Ga-68"),
        (injected("FDG"), "F-18"),
        (injected("[11C]methionine"), "C-11"),
        (injected("DOTATATE"), None),
    ],
)
def test_nuclide(found_in, symbol):
    found = nuclide_of(found_in)
    assert (None if found is None else found.symbol) == symbol


def test_the_filled_item_of_the_sequence_counts_and_a_frame_names_its_own():
    filled = header(Radiopharmaceutical="FLT", RadionuclideTotalDose=3e8)
    assert administered(header(RadiopharmaceuticalInformationSequence=[Dataset(), filled])).RadionuclideTotalDose == 3e8
    first, second = (header(RadiopharmaceuticalAgentNumber=n, Radiopharmaceutical=f"drug {n}") for n in (1, 2))
    both = header(RadiopharmaceuticalInformationSequence=[first, second], RadiopharmaceuticalAgentNumber=2)
    assert administered(both).Radiopharmaceutical == "drug 2"
