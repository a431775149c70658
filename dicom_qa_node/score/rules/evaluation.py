"""From measurements and headers to findings: what an operator should know about a series, with figures and codes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dicom_qa_node.config.thresholds import DEFAULTS, FindingRules, Thresholds
from dicom_qa_node.dicom_io.headers import text
from dicom_qa_node.domain.reference_levels import ReferenceLevel
from dicom_qa_node.domain.results import Finding, Measurement, SeriesKind
from dicom_qa_node.score.rules.acquisition import COMPLETENESS_RULES
from dicom_qa_node.score.rules.case import Case, Rule
from dicom_qa_node.score.rules.ct import CT_RULES
from dicom_qa_node.score.rules.pet import PET_RULES
from dicom_qa_node.score.volume import Volume

__all__ = ["evaluate_rules", "rules_for", "thresholds_of"]


def evaluate_rules(
    volume: Volume,
    measurements: Sequence[Measurement],
    paired_ct: Volume | None = None,
    limits: Thresholds = DEFAULTS,
    reported_keys: Collection[str] = (),
    levels: Mapping[str, ReferenceLevel] | None = None,
) -> tuple[Finding, ...]:
    """Apply the rules of a kind of study to its measurements.

    Parameters
    ----------
    measurements
        Those of `score.physics.measurements.measure` for this volume.
    limits
        The limits of this series' protocol, see `thresholds_of`.
    reported_keys
        Keys of findings that stand elsewhere already; they and those of ``volume.findings`` are not said twice.
    levels
        Reference levels of this series' stratum by quantity: they count in place of the limits where they hold.
    """
    case = Case(volume, {found.name: found for found in measurements}, paired_ct, limits, levels or {})
    suppressed_keys = {*reported_keys, *(finding.key for finding in volume.findings)}
    found = (rule(case) for rule in rules_for(volume.kind))
    return tuple(finding for finding in found if finding is not None and finding.key not in suppressed_keys)


def rules_for(kind: SeriesKind) -> tuple[Rule, ...]:
    """Return the rules of one kind of study, in the order in which their findings are told."""
    return (*(CT_RULES if kind is SeriesKind.CT else PET_RULES), *COMPLETENESS_RULES)


def thresholds_of(volume: Volume, rules: FindingRules) -> Thresholds:
    """Return the limits that the configuration sets for this series."""
    return rules.for_series(
        protocol=text(volume.header, "ProtocolName"),
        description=text(volume.header, "SeriesDescription"),
        body_part=text(volume.header, "BodyPartExamined"),
        station=text(volume.header, "StationName"),
    )
