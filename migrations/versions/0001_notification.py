"""Creates the tables, triggers, view, publication and roles of Rowbell.

Everything is SQL, because most of it (publication with column lists, replica identity, ALWAYS triggers, unlogged table)
has no other form. The tables are repeated in `rowbell.inbox.tables`, for queries; tests compare the two, and compare
the catalog of a migrated database with a committed listing.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

CHECK_FUNCTIONS = r"""
-- No control characters but tab and line ends.
CREATE FUNCTION rowbell_text_ok(t text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN t !~ '[\x01-\x08\x0B\x0C\x0E-\x1F\x7F]';
-- Infinity and years BC or beyond 9999 break readers downstream.
CREATE FUNCTION rowbell_time_ok(t timestamptz) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN t >= '1970-01-01 00:00:00+00' AND t < '10000-01-01 00:00:00+00';
"""

# A bounded repetition such as {1,249} in a CHECK costs 16 to 22 microseconds a row; length() and a negated class, 0.3.
NOTIFICATION = r"""
CREATE TABLE notification (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  recipient_id text NOT NULL,                 -- a user: the subject of a token; or topic:NAME
  title        text NOT NULL,
  type         text NOT NULL DEFAULT 'GENERIC',
  body         text,
  data         jsonb NOT NULL DEFAULT '{}',
  actor_id     text,
  channel      text NOT NULL DEFAULT 'IN_APP',
  dedup_key    text,
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at   timestamptz,
  read_at      timestamptz,
  version      bigint NOT NULL DEFAULT 1,     -- this and the two below: by a trigger, whatever the writer says
  inserted_tx  bigint NOT NULL DEFAULT 0,
  changed_tx   bigint NOT NULL DEFAULT 0,
  CONSTRAINT notification_recipient_key UNIQUE (recipient_id, id),
  CONSTRAINT notification_id_is_a_javascript_integer CHECK (id BETWEEN 1 AND 9007199254740991),
  CONSTRAINT notification_recipient_id_check CHECK (length(recipient_id) BETWEEN 1 AND 255
    AND recipient_id !~ '[[:cntrl:]/*#]' AND (recipient_id !~ ':' OR recipient_id ~ '^topic:[^:]+$')),
  CONSTRAINT notification_title_check CHECK (length(title) BETWEEN 1 AND 500 AND rowbell_text_ok(title)),
  CONSTRAINT notification_type_check CHECK (length(type) BETWEEN 1 AND 100 AND type !~ '[^A-Za-z0-9_.-]'),
  CONSTRAINT notification_channel_check CHECK (length(channel) BETWEEN 1 AND 50 AND channel !~ '[^A-Z_]'),
  CONSTRAINT notification_actor_id_check CHECK (length(actor_id) <= 255 AND rowbell_text_ok(actor_id)),
  CONSTRAINT notification_dedup_key_check CHECK (length(dedup_key) BETWEEN 1 AND 255),
  CONSTRAINT notification_body_check CHECK (octet_length(body) <= 16384 AND rowbell_text_ok(body)),
  CONSTRAINT notification_data_check CHECK (jsonb_typeof(data) = 'object' AND octet_length(data::text) <= 24576),
  CONSTRAINT notification_created_at_check CHECK (rowbell_time_ok(created_at)),
  CONSTRAINT notification_expires_at_check CHECK (rowbell_time_ok(expires_at)),
  CONSTRAINT notification_read_at_check CHECK (rowbell_time_ok(read_at))
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE UNIQUE INDEX notification_dedup_key ON notification (recipient_id, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX notification_unread ON notification (recipient_id, id) WHERE read_at IS NULL;
CREATE INDEX notification_changed ON notification (changed_tx);
CREATE INDEX notification_recipient_changed ON notification (recipient_id, changed_tx);
CREATE INDEX notification_expiring ON notification (expires_at) WHERE expires_at IS NOT NULL AND read_at IS NULL;
-- A DELETE then carries the recipient, which is the key of the change stream.
ALTER TABLE notification REPLICA IDENTITY USING INDEX notification_recipient_key;
"""

STAMP = """
CREATE FUNCTION notification_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.changed_tx := pg_current_xact_id()::text::bigint;
  IF TG_OP = 'INSERT' THEN
    NEW.version := 1; NEW.inserted_tx := NEW.changed_tx;
  ELSE
    IF NEW.id <> OLD.id OR NEW.recipient_id <> OLD.recipient_id THEN
      RAISE EXCEPTION 'notification %: id and recipient_id never change', OLD.id
        USING HINT = 'Delete the row and insert a new one.';
    END IF;
    NEW.version := OLD.version + 1;
    NEW.inserted_tx := least(OLD.inserted_tx, NEW.changed_tx);  -- a restored row may carry a future transaction id
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER notification_stamp BEFORE INSERT OR UPDATE ON notification
  FOR EACH ROW EXECUTE FUNCTION notification_stamp();
"""

TOMBSTONES = """
CREATE TABLE notification_deleted (
  id           bigint PRIMARY KEY,
  recipient_id text NOT NULL,
  deleted_tx   bigint NOT NULL,
  deleted_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX notification_deleted_tx ON notification_deleted (deleted_tx);
CREATE INDEX notification_deleted_recipient ON notification_deleted (recipient_id, deleted_tx);
-- Runs as its owner: who may delete a notification may not write tombstones. pg_temp is named, and last, because it is
-- searched first otherwise, and a caller's temporary table of this name would be written with the owner's rights.
CREATE FUNCTION notification_tombstone() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  INSERT INTO notification_deleted (id, recipient_id, deleted_tx)
  VALUES (OLD.id, OLD.recipient_id, pg_current_xact_id()::text::bigint)
  ON CONFLICT (id) DO UPDATE SET deleted_tx = excluded.deleted_tx, deleted_at = excluded.deleted_at;
  RETURN NULL;
END $$;
-- For each row: a statement trigger does not fire under logical apply.
CREATE TRIGGER notification_tombstone AFTER DELETE ON notification
  FOR EACH ROW EXECUTE FUNCTION notification_tombstone();
CREATE FUNCTION notification_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'notification cannot be truncated: connected clients would not hear of it' USING HINT = 'Use DELETE.';
END $$;
CREATE TRIGGER notification_keep BEFORE TRUNCATE ON notification
  FOR EACH STATEMENT EXECUTE FUNCTION notification_keep();
-- ALWAYS: under session_replication_role = replica too, which is how logical apply and some restores write.
ALTER TABLE notification
  ENABLE ALWAYS TRIGGER notification_stamp,
  ENABLE ALWAYS TRIGGER notification_tombstone,
  ENABLE ALWAYS TRIGGER notification_keep;
"""

GATEWAY_TABLES = """
-- Who was handed what. No foreign key: an uncommitted DELETE would block a whole batch, and a retracted row fail it.
CREATE TABLE notification_delivery (
  notification_id bigint NOT NULL,
  user_id         text NOT NULL,
  delivered_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (notification_id, user_id)
);
-- Unlogged, so that a crash and a promotion empty it: transaction ids are handed out again then. A restore changes
-- the system or the relation.
CREATE UNLOGGED TABLE rowbell_epoch (
  one       boolean PRIMARY KEY DEFAULT true CHECK (one),
  epoch     uuid NOT NULL DEFAULT gen_random_uuid(),
  system    bigint NOT NULL DEFAULT (pg_control_system()).system_identifier,
  relation  oid NOT NULL DEFAULT 'notification'::regclass::oid,
  -- No tombstone with deleted_tx at or below this is left.
  purged_tx bigint NOT NULL DEFAULT pg_snapshot_xmax(pg_current_snapshot())::text::bigint
);
"""

STREAM = """
CREATE TABLE rowbell_heartbeat (id integer PRIMARY KEY DEFAULT 1 CHECK (id = 1), at timestamptz NOT NULL);
-- Every column of notification but dedup_key, which is the writer's own. A column that is added to the table is not
-- published by itself: the migration that adds it must say so here.
CREATE PUBLICATION notification_publication FOR TABLE
  notification (id, recipient_id, title, type, body, data, actor_id, channel, created_at, expires_at, read_at,
                version, inserted_tx, changed_tx),
  rowbell_heartbeat
  WITH (publish = 'insert, update, delete');
"""

VIEW = """
CREATE VIEW unread_notification WITH (security_invoker = true) AS
  SELECT id, recipient_id, type, title, body, data, actor_id, created_at, expires_at FROM notification
  WHERE read_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    AND channel = 'IN_APP' AND recipient_id NOT LIKE 'topic:%';
"""

# Roles belong to the whole cluster, so another database may have created them, or be creating them at this moment: then
# the second CREATE waits for the first to commit, and finds the name taken.
ROLES = """
DO $$
DECLARE role text;
BEGIN
  FOREACH role IN ARRAY ARRAY['rowbell_app', 'rowbell_gateway', 'rowbell_connector'] LOOP
    IF to_regrole(role) IS NULL THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I', role);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
      END;
    END IF;
  END LOOP;
END $$;
"""

GRANTS = """
GRANT SELECT, DELETE, UPDATE (read_at),
  INSERT (recipient_id, title, type, body, data, actor_id, channel, dedup_key, created_at, expires_at)
  ON notification TO rowbell_app;
GRANT SELECT ON unread_notification TO rowbell_app, rowbell_gateway;
GRANT SELECT, UPDATE (read_at) ON notification TO rowbell_gateway;
GRANT SELECT, DELETE ON notification_deleted TO rowbell_gateway;
GRANT SELECT, INSERT, DELETE ON notification_delivery TO rowbell_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON rowbell_epoch TO rowbell_gateway;
GRANT SELECT ON notification, rowbell_heartbeat TO rowbell_connector;
GRANT INSERT, UPDATE ON rowbell_heartbeat TO rowbell_connector;
"""

DROP_ALL = """
DROP PUBLICATION notification_publication;
DROP VIEW unread_notification;
DROP TABLE rowbell_heartbeat, rowbell_epoch, notification_delivery, notification_deleted, notification;
DROP FUNCTION notification_keep(), notification_tombstone(), notification_stamp();
DROP FUNCTION rowbell_time_ok(timestamptz), rowbell_text_ok(text);
"""

# A role is kept if another database of the cluster depends on it, or if it is not ours to drop.
DROP_ROLES = """
DO $$
DECLARE role text;
BEGIN
  FOREACH role IN ARRAY ARRAY['rowbell_app', 'rowbell_gateway', 'rowbell_connector'] LOOP
    BEGIN
      EXECUTE format('DROP ROLE IF EXISTS %I', role);
    EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
      RAISE NOTICE 'role % is kept: %', role, SQLERRM;
    END;
  END LOOP;
END $$;
"""


def upgrade() -> None:
    for statements in (
        CHECK_FUNCTIONS, NOTIFICATION, STAMP, TOMBSTONES, GATEWAY_TABLES, STREAM, VIEW, ROLES, GRANTS,
    ):  # fmt: skip
        _run(statements)


def downgrade() -> None:
    _run(DROP_ALL)
    _run(DROP_ROLES)


def _run(statements: str) -> None:
    """Execute several statements unchanged: `op.execute` would read `[:cntrl:]` as a parameter."""
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
