"""Radiopharmaceuticals of PET by their codes and names: the one vocabulary of tracers and positron emitters.

Codes are those of pydicom's dictionary (PS3.16 CID 4021 and 4020); scheme and value are compared together, and SRT
counts as the SNOMED CT concept that replaced it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dicom_qa_node.dicom_io import headers as at

__all__ = ["NUCLIDES", "Nuclide", "Tracer", "administered", "is_fdg", "named_nuclides", "nuclide_of", "tracer_of"]


class Tracer(StrEnum):
    """What was injected; OTHER is named by the header but not in this list."""

    FDG = "FDG"
    PSMA = "PSMA"
    DOTA = "DOTA peptide"
    FAPI = "FAPI"
    FET = "FET"
    FLT = "FLT"
    DOPA = "DOPA"
    CHOLINE = "choline"
    FLUCICLOVINE = "fluciclovine"
    METHIONINE = "methionine"
    ACETATE = "acetate"
    SODIUM_FLUORIDE = "sodium fluoride"
    FMISO = "FMISO"
    FES = "FES"
    AMYLOID = "amyloid tracer"
    TAU = "tau tracer"
    RUBIDIUM = "rubidium"
    AMMONIA = "ammonia"
    WATER = "water"
    FLURPIRIDAZ = "flurpiridaz"
    ANTIBODY = "labelled antibody"
    OTHER = "another tracer"


@dataclass(frozen=True, slots=True)
class Nuclide:
    """A positron emitter with its physical half-life (ENSDF) in seconds."""

    symbol: str
    half_life_s: float
    code: Code = field(repr=False)


_N = codes.cid4020
NUCLIDES = (
    Nuclide("F-18", 6584.0, _N._18Fluorine),
    Nuclide("Ga-68", 4062.6, _N._68Gallium),
    Nuclide("C-11", 1221.8, _N._11Carbon),
    Nuclide("N-13", 597.9, _N._13Nitrogen),
    Nuclide("O-15", 122.2, _N._15Oxygen),
    Nuclide("Rb-82", 75.4, _N._82Rubidium),
    Nuclide("Cu-64", 45721.0, _N._64Copper),
    Nuclide("Zr-89", 282276.0, _N._89Zirconium),
    Nuclide("I-124", 360806.0, _N._124Iodine),
    Nuclide("Sc-44", 14550.0, _N._44Scandium),
    Nuclide("Y-86", 53064.0, _N._86Yttrium),
    Nuclide("Br-76", 58320.0, _N._76Bromine),
)

_USUAL_NUCLIDE = {
    tracer: nuclide
    for symbol, tracers in (
        ("F-18", (Tracer.FDG, Tracer.FLT, Tracer.FET, Tracer.DOPA, Tracer.SODIUM_FLUORIDE, Tracer.FMISO, Tracer.FES)),
        ("C-11", (Tracer.METHIONINE, Tracer.ACETATE)),
        ("N-13", (Tracer.AMMONIA,)),
        ("O-15", (Tracer.WATER,)),
        ("Rb-82", (Tracer.RUBIDIUM,)),
    )
    for tracer in tracers
    for nuclide in NUCLIDES
    if nuclide.symbol == symbol
}

_S, _D, _C, _U = codes.SCT, codes.DCM, codes.NCIt, codes.UMLS
_BY_CODE: tuple[tuple[Tracer, tuple[Code, ...]], ...] = (
    (Tracer.FDG, (_S.FluorodeoxyglucoseF18,)),
    (Tracer.PSMA, (_C.PSMA11Ga68, _D.PSMA617Ga68, _D.PSMA1007F18, _C.PiflufolastatF18, _C.DCFBCF18)),
    (Tracer.DOTA, (_S.DotatateGa68, _U.EdotreotideGa68)),
    (Tracer.FET, (_S.FluorethyltyrosinF18,)),
    (Tracer.FLT, (_S.ThymidineF18,)),
    (Tracer.DOPA, (_S.FluoroLDopaF18,)),
    (Tracer.CHOLINE, (_S.FluorocholineF18, _D.CholineC11)),
    (Tracer.FLUCICLOVINE, (_S.FluciclovineF18,)),
    (Tracer.METHIONINE, (_S.MethionineC11,)),
    (Tracer.ACETATE, (_S.AcetateC11,)),
    (Tracer.SODIUM_FLUORIDE, (_S.SodiumFluorideF18,)),
    (Tracer.FMISO, (_S.FluoromisonidazoleF18,)),
    (Tracer.FES, (_S.FluoroestradiolF18,)),
    (Tracer.AMYLOID, (_D.PittsburghCompoundBC11, _S.FlorbetapirF18, _S.FlorbetabenF18, _S.FlutemetamolF18)),
    (Tracer.TAU, (_S.FlortaucipirF18, _U.MK6240F18)),
    (Tracer.RUBIDIUM, (_S.RubidiumChlorideRb82,)),
    (Tracer.AMMONIA, (_S.AmmoniaN13,)),
    (Tracer.WATER, (_S.OxygenWaterO15,)),
    (Tracer.FLURPIRIDAZ, (_D.FlurpiridazF18,)),
    (Tracer.ANTIBODY, (_D.Trastuzumab89Zr, _D.Bevacizumab89Zr, _D.Cetuximab89Zr, _D.MonoclonalAntibody89Zr)),
)

# Names as vendors, sites and the code meanings write them; the first that is found counts, so FLT stands before FDG.
_BY_NAME: tuple[tuple[Tracer, str], ...] = (
    (Tracer.FLT, r"\bFLT\b|THYMIDINE"),
    (Tracer.FET, r"\bFET\b|FLUOR\w*ETH?YL\W*(L\W*)?TYROSIN"),
    (Tracer.DOPA, r"DOPA"),
    (Tracer.FDG, r"FDG|(FLU\w*)?DE(S?OXY|SOSSI)\w*[ -]*(D[ -]*)?[(]?GL[UY][CK]OS|FLUORO-?D-?GLUCOSE|FLUOROGLUCOSE"),
    (Tracer.PSMA, r"PSMA|DCFPYL|DCFBC|PYLARIFY|PIFLUFOLASTAT|FLOTUFOLASTAT|GOZETOTIDE|LOCAMETZ|ILLUCCIX"),
    (Tracer.DOTA, r"DOTA|EDOTREOTIDE|OXODOTREOTIDE|SOMATOSTATIN|NETSPOT|DETECTNET"),
    (Tracer.FAPI, r"FAPI"),
    (Tracer.FLUCICLOVINE, r"FLUCICLOVINE|AXUMIN|FACBC"),
    (Tracer.CHOLINE, r"CHOLIN|\bFCH\b"),
    (Tracer.METHIONINE, r"METHIONIN"),
    (Tracer.ACETATE, r"ACETATE"),
    (Tracer.SODIUM_FLUORIDE, r"\bNA-?F\b|SODIUM[ -]*FLUORIDE|NATRIUMFLUORID"),
    (Tracer.FMISO, r"MISO|\bFAZA\b"),
    (Tracer.FES, r"\bFES\b|ESTRADIOL"),
    (Tracer.AMYLOID, r"FLORBETA|FLUTEMETAMOL|PITTSBURGH|\bPI-?B\b|AMYVID|NEURACEQ|VIZAMYL"),
    (Tracer.TAU, r"TAUCIPIR|MK-?6240|PI-?2620|TAUVID|T-?807"),
    (Tracer.RUBIDIUM, r"RUBIDIUM|\bRB-?82|82-?RB\b|CARDIOGEN"),
    (Tracer.AMMONIA, r"AMMONI|\bNH-?3\b"),
    (Tracer.WATER, r"WATER|H2-?O|H2\W*15\W*O"),
    (Tracer.FLURPIRIDAZ, r"FLURPIRIDAZ|FLYRCADO"),
    (Tracer.ANTIBODY, r"\w{3,}MAB\b|ANTIBODY|GIRENTUXIMAB"),
)
_NAMES = tuple((tracer, re.compile(pattern)) for tracer, pattern in _BY_NAME)
_UNNAMED = re.compile(r"|".join((r"SOLUTION", r"OTHER", r"UNKNOWN", r"NONE", r"N/?A", r"PET", r"TRACER", r"ISOTOPE")))


def administered(header: Dataset) -> Dataset:
    """Return the item of the Radiopharmaceutical Information Sequence (0054,0016) that describes the injection.

    Some scanners put an empty item first; Enhanced PET names the item of a frame by Radiopharmaceutical Agent Number
    (0018,9729). An empty data set where there is none.
    """
    found = at.items(header, "RadiopharmaceuticalInformationSequence")
    agent = at.integer(header, "RadiopharmaceuticalAgentNumber")
    named = [
        item for item in found if agent is not None and agent == at.integer(item, "RadiopharmaceuticalAgentNumber")
    ]
    return max(named or found, key=_filled, default=Dataset())


def tracer_of(header: Dataset) -> Tracer | None:
    """Return the tracer of a PET header: by its code, else by its name; None where the header names none."""
    item = administered(header)
    coded = tuple(_codes(at.items(item, "RadiopharmaceuticalCodeSequence")))
    for code in coded:
        for tracer, known in _BY_CODE:
            if code in known:
                return tracer
    names = [at.text(item, "Radiopharmaceutical"), *(code.meaning for code in coded)]
    for name in names:
        for tracer, pattern in _NAMES:
            if pattern.search(name.upper()):
                return tracer
    if any(name and not _says_nothing(name) for name in names) or any(code.value for code in coded):
        return Tracer.OTHER
    return None


def is_fdg(header: Dataset) -> bool:
    """Return whether rules for FDG hold: FDG is named, or nothing is and the nuclide can be fluorine-18."""
    tracer = tracer_of(header)
    if tracer is not None:
        return tracer is Tracer.FDG
    nuclide = nuclide_of(header)
    return nuclide is None or nuclide.symbol == "F-18"


def nuclide_of(header: Dataset) -> Nuclide | None:
    """Return the positron emitter by the Radionuclide Code Sequence (0054,0300), else by the tracer's name."""
    return next(iter(named_nuclides(header)), None)


def named_nuclides(header: Dataset) -> tuple[Nuclide, ...]:
    """Return every positron emitter that a header names: by its code, by the tracer's name, by the usual label."""
    item = administered(header)
    coded = tuple(_codes(at.items(item, "RadionuclideCodeSequence")))
    drug = tuple(_codes(at.items(item, "RadiopharmaceuticalCodeSequence")))
    texts = (*(code.meaning for code in (*coded, *drug)), at.text(item, "Radiopharmaceutical"))
    named = [nuclide for nuclide in NUCLIDES if nuclide.code in coded]
    named += [nuclide for text in texts for nuclide in NUCLIDES if _names_nuclide(text, nuclide.symbol)]
    usual = _USUAL_NUCLIDE.get(tracer_of(header) or Tracer.OTHER)
    return tuple(dict.fromkeys([*named, *([usual] if usual and not named else [])]))


def _names_nuclide(text: str, symbol: str) -> bool:
    """Whether a text holds "F-18", "18F", "[18F]", "F18", "^18^F" or "Fluorine-18"."""
    element, mass = symbol.split("-")
    name = _ELEMENTS[element]
    either = f"(?:{element.upper()}|{name})"
    pattern = rf"(?<![A-Z]){either}[ -]?\^?{mass}\b|(?<!\d){mass}\^?[ -]?{either}(?![A-Z]{{2}})"
    return re.search(pattern, text.upper()) is not None


def _codes(items: Iterable[Dataset]) -> Iterable[Code]:
    for item in items:
        value = next((at.word(item, k) for k in ("CodeValue", "LongCodeValue") if at.word(item, k)), "")
        scheme, meaning = at.word(item, "CodingSchemeDesignator"), at.text(item, "CodeMeaning")
        if value or meaning:
            yield Code(value, _SCHEMES.get(scheme.upper(), scheme), meaning)


_ELEMENTS = {
    "F": "FLUORINE?", "Ga": "GALLIUM", "C": "CARBON", "N": "NITROGEN", "O": "OXYGEN", "Rb": "RUBIDIUM", "Cu": "COPPER",
    "Zr": "ZIRCONIUM", "I": "IODINE", "Sc": "SCANDIUM", "Y": "YTTRIUM", "Br": "BROMINE",
}  # fmt: skip

_SCHEMES = {"SNM3": "SRT", "99SDM": "SRT", "SNOMED": "SCT", "SCT": "SCT", "SRT": "SRT", "DCM": "DCM"}


def _says_nothing(name: str) -> bool:
    return _UNNAMED.fullmatch(name.strip().upper()) is not None or any(
        name.strip().upper() in (n.symbol.upper(), n.symbol.replace("-", "").upper()) for n in NUCLIDES
    )


def _filled(item: Dataset) -> tuple[int, int]:
    wanted = ("RadionuclideTotalDose", "RadionuclideHalfLife", "RadiopharmaceuticalStartTime",
              "RadiopharmaceuticalStartDateTime")  # fmt: skip
    return sum(bool(at.word(item, keyword)) for keyword in wanted), len(item)
