"""Quality against dose, phantoms, review queue, backfill and bridge"""

from __future__ import annotations

from dicom_qa_node.db.migrations.physicist import backfill, charts, dose, orthanc, phantoms, reviews

revision = "0101"
down_revision = "0100"
branch_labels = None
depends_on = None

_PARTS = (charts, dose, phantoms, reviews, backfill, orthanc)


def upgrade() -> None:
    for part in _PARTS:
        part.create()


def downgrade() -> None:
    for part in reversed(_PARTS):
        part.drop()
