"""Adds the revocation of tokens before they expire."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

REVOCATION = r"""
-- Tokens of this user that were issued before this moment are refused. Rows are only added: the latest moment counts.
CREATE TABLE notification_revocation (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  user_id    text NOT NULL,                   -- as in notification.recipient_id
  before     timestamptz NOT NULL DEFAULT clock_timestamp(),
  revoked_tx bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
  CONSTRAINT notification_revocation_user_id_check
    CHECK (length(user_id) BETWEEN 1 AND 255 AND user_id !~ '[[:cntrl:]/*#:]'),
  CONSTRAINT notification_revocation_before_check CHECK (rowbell_time_ok(before))
);
CREATE INDEX notification_revocation_tx ON notification_revocation (revoked_tx);
-- An application takes tokens back in the transaction that locks the account, or changes the password.
GRANT SELECT, INSERT (user_id, before) ON notification_revocation TO rowbell_app;
GRANT SELECT ON notification_revocation TO rowbell_gateway;
"""


def upgrade() -> None:
    _run(REVOCATION)


def downgrade() -> None:
    _run("DROP TABLE notification_revocation;")


def _run(statements: str) -> None:
    """Execute statements unchanged: `op.execute` would read `[:cntrl:]` as a parameter."""
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
