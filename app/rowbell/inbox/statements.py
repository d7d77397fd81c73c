"""The gateway's SQL statements, each with its rationale. Written against `rowbell.inbox.tables`.

All of them rely on `plan_cache_mode = force_custom_plan`: a generic plan does not know how few rows a snapshot has not
seen.
"""

from __future__ import annotations

import re

from sqlalchemy import BigInteger, DateTime, Integer, Text, TextClause, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from rowbell.inbox.epoch import HOLDS
from rowbell.notification import DELETED

PARAMETERS = (
    bindparam("xmax", type_=BigInteger),
    bindparam("xip", type_=ARRAY(BigInteger)),
    bindparam("ids", type_=ARRAY(BigInteger)),
    bindparam("users", type_=ARRAY(Text)),
    bindparam("recipients", type_=ARRAY(Text)),
    bindparam("most", type_=Integer),
    bindparam("recipient", type_=Text),
    bindparam("since", type_=DateTime(timezone=True)),
    bindparam("epoch", type_=Uuid),
    bindparam("floor_xmax", type_=BigInteger),
    bindparam("floor_xip", type_=ARRAY(BigInteger)),
    bindparam("first_xmax", type_=BigInteger),
    bindparam("first_xip", type_=ARRAY(BigInteger)),
    bindparam("through", type_=BigInteger),
    bindparam("after", type_=BigInteger),
    bindparam("versions", type_=ARRAY(BigInteger)),
    bindparam("withheld", type_=ARRAY(BigInteger)),
    bindparam("seen", type_=ARRAY(BigInteger)),
)


def _statement(sql: str) -> TextClause:
    """Return the statement, with the types of the parameters that it uses."""
    named = set(re.findall(r"(?<!:):(\w+)", sql))
    return text(sql).bindparams(*(parameter for parameter in PARAMETERS if parameter.key in named))


UNSEEN = "({tx} >= :xmax OR {tx} = ANY(:xip))"
"""Matches what a snapshot has not seen. Not a range from its xmin: with one old writer that would scan all newer
rows."""

NOW = _statement(f"""
    SELECT pg_current_snapshot()::text AS snapshot, epoch, purged_tx
    FROM (VALUES (1)) AS always LEFT JOIN rowbell_epoch ON {HOLDS}
""")
"""The first statement of a REPEATABLE READ transaction: all later ones read from its snapshot."""

KEYS = _statement(f"""
    (SELECT id, recipient_id, version, changed_tx AS tx FROM notification WHERE {UNSEEN.format(tx="changed_tx")}
     LIMIT :most)
    UNION ALL
    (SELECT id, recipient_id, {DELETED}, deleted_tx FROM notification_deleted WHERE {UNSEEN.format(tx="deleted_tx")}
     LIMIT :most)
    LIMIT :most
""")
"""What changed, for all recipients: matching recipients in memory is cheaper (1 ms for 10,000) than in SQL (16 ms)."""

KEYS_OF = _statement(f"""
    SELECT id, recipient_id, version, tx FROM (
        SELECT id, recipient_id, version, tx, row_number() OVER (PARTITION BY recipient_id) AS count FROM (
            SELECT id, recipient_id, version, changed_tx AS tx FROM notification
            WHERE recipient_id = ANY(:recipients) AND {UNSEEN.format(tx="changed_tx")}
            UNION ALL
            SELECT id, recipient_id, {DELETED}, deleted_tx FROM notification_deleted
            WHERE recipient_id = ANY(:recipients) AND {UNSEEN.format(tx="deleted_tx")}
        ) AS unseen
    ) AS counted WHERE count <= :most
""")
"""The same for these recipients only, with a limit for each, when much has changed: an UPDATE of a million rows of one
user would yield a million keys, which take 1.6 s and unbounded memory."""

REVOKED = _statement(f"""
    SELECT user_id, extract(epoch FROM max(before))::float8 AS before FROM notification_revocation
    WHERE {UNSEEN.format(tx="revoked_tx")} GROUP BY user_id
""")
"""Users whose tokens were revoked."""

_IDS = "string_agg(int8send(id), ''::bytea ORDER BY id)"
"""Ids as 8 bytes each, big-endian: a million rows of one recipient arrive as one value, without a Python object for
each."""

UNREAD_IDS = _statement(f"""
    SELECT recipient_id, {_IDS} AS ids FROM unread_notification
    WHERE recipient_id = ANY(:recipients) GROUP BY recipient_id
""")
"""What a full replay shows, oldest first. Ids only: for bodies the planner would scan the primary key."""

CHANGED_IDS = _statement(f"""
    SELECT recipient_id, {_IDS} AS ids FROM notification
    WHERE recipient_id = ANY(:recipients) AND {UNSEEN.format(tx="changed_tx")} GROUP BY recipient_id
""")
"""Rows inserted, changed or read since a floor; including read and hidden ones, since the client must learn of them."""

DELETIONS = _statement(f"""
    SELECT recipient_id, id, deleted_tx FROM notification_deleted
    WHERE recipient_id = ANY(:recipients) AND {UNSEEN.format(tx="deleted_tx")}
""")
"""Rows deleted since a floor."""


def _milliseconds(name: str) -> str:
    """Return SQL for epoch milliseconds, rounded down: `extract` is exact to the microsecond (numeric), like Debezium's
    text.
    """
    return f"floor(extract(epoch FROM {name}) * 1000)::bigint AS {name}"


ROWS = _statement(f"""
    SELECT id, recipient_id, version, type, title, body, data::text AS data, actor_id, channel,
           {_milliseconds("created_at")}, {_milliseconds("expires_at")}, {_milliseconds("read_at")},
           inserted_tx, changed_tx
    FROM notification WHERE id = ANY(:ids) ORDER BY id
""")
"""Bodies, by primary key. The columns are the fields of `Notification`, in order."""

COUNT_UNREAD = _statement("""
    SELECT recipient, (SELECT count(*) FROM (
        SELECT FROM unread_notification WHERE recipient_id = recipient LIMIT :most
    ) AS first) AS count FROM unnest(:recipients) AS recipient
""")
"""The number of unread rows, up to a limit: counting 200,000 takes 98 ms, and nobody reads such a number."""

EXPIRED = _statement("""
    SELECT now() AS at, ARRAY(
        SELECT DISTINCT recipient_id FROM notification
        WHERE expires_at > :since AND expires_at <= now() AND read_at IS NULL AND recipient_id = ANY(:recipients)
    ) AS recipients
""")
"""Recipients whose rows have expired since, and so left the unread query by themselves."""

UNSEEN_OF = _statement(f"""
    SELECT count(*) FROM unnest(:seen) AS tx WHERE NOT pg_visible_in_snapshot(tx::text::xid8, pg_current_snapshot())
    AND EXISTS (SELECT FROM rowbell_epoch WHERE epoch = :epoch AND {HOLDS})
""")
"""The number of these transactions of an epoch that SQL does not see yet: the WAL is decoded before a commit becomes
visible, and much earlier if the commit waits for a synchronous standby."""

UNREAD_OF = """SELECT id FROM notification
    WHERE recipient_id = :recipient AND read_at IS NULL AND channel = 'IN_APP'"""
LOCK = "ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"
"""Locked rows are skipped and retried later: nothing waits for them, and nothing can deadlock."""
MARK = "UPDATE notification SET read_at = now() FROM marked WHERE notification.id = marked.id"

MARK_IDS = _statement(f"""
    WITH eligible AS ({UNREAD_OF} AND id = ANY(:ids)),
    marked AS ({UNREAD_OF} AND id = ANY(:ids) {LOCK}),
    updated AS ({MARK})
    SELECT (SELECT count(*) FROM eligible) = (SELECT count(*) FROM marked) AS all_of_them
""")

GIVEN = f"""{UNREAD_OF} AND (expires_at IS NULL OR expires_at > now())
    AND (
        (changed_tx < :floor_xmax AND changed_tx <> ALL(:floor_xip))
        OR (id <= :through AND changed_tx < :first_xmax AND changed_tx <> ALL(:first_xip))
        OR (id, version) IN (SELECT id, version FROM unnest(:ids, :versions) AS sent (id, version))
    )
    AND id > :after AND id <> ALL(:withheld)
    AND EXISTS (SELECT FROM rowbell_epoch WHERE epoch = :epoch AND {HOLDS})
"""
"""The rows that were given according to a subscription's ledger. Rows that have expired are excluded."""

MARK_GIVEN = _statement(f"""
    WITH portion AS ({GIVEN} ORDER BY id LIMIT :most),
    marked AS ({GIVEN} AND id <= (SELECT max(id) FROM portion) {LOCK}),
    updated AS ({MARK})
    SELECT (SELECT max(id) FROM portion) AS last,
           (SELECT count(*) FROM portion) = (SELECT count(*) FROM marked) AS all_of_them
""")
"""Marks a portion of what was given, and returns where it ends (NULL: nothing is left). The condition is repeated at
the lock: there PostgreSQL re-evaluates it for a row that changed concurrently, so a version that was not given is never
marked."""

RECORD_DELIVERIES = _statement("""
    INSERT INTO notification_delivery (notification_id, user_id)
    SELECT id, user_id FROM unnest(:ids, :users) AS delivery (id, user_id) ORDER BY 1, 2
    ON CONFLICT DO NOTHING
""")
"""Inserted in a fixed order: otherwise two gateways with the same rows could deadlock."""

PING = text("SELECT 1")
