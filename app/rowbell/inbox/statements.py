"""The SQL of the gateway, each statement with a name and its reason. Written against `rowbell.inbox.tables`.

All of it relies on `plan_cache_mode = force_custom_plan`: a generic plan does not know how few rows a snapshot has
not seen.
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
    """The statement, with the types of those parameters that it has."""
    named = set(re.findall(r"(?<!:):(\w+)", sql))
    return text(sql).bindparams(*(parameter for parameter in PARAMETERS if parameter.key in named))


UNSEEN = "({tx} >= :xmax OR {tx} = ANY(:xip))"
"""What a snapshot has not seen. Not a range from its xmin: with one old writer that scans all newer rows."""

NOW = _statement(f"""
    SELECT pg_current_snapshot()::text AS snapshot, epoch, purged_tx
    FROM (VALUES (1)) AS always LEFT JOIN rowbell_epoch ON {HOLDS}
""")
"""The first statement of a REPEATABLE READ transaction: its snapshot is the one that all the others read by."""

KEYS = _statement(f"""
    (SELECT id, recipient_id, version, changed_tx AS tx FROM notification WHERE {UNSEEN.format(tx="changed_tx")}
     LIMIT :most)
    UNION ALL
    (SELECT id, recipient_id, {DELETED}, deleted_tx FROM notification_deleted WHERE {UNSEEN.format(tx="deleted_tx")}
     LIMIT :most)
    LIMIT :most
""")
"""What changed, whoever it is for: matching recipients in memory is cheaper (1 ms for 10,000) than in SQL (16 ms)."""

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
"""The same for these recipients only, and so many of each, when much changed: an UPDATE of a million rows of one user
would come as a million keys, 1.6 s without an end in memory."""

REVOKED = _statement(f"""
    SELECT user_id, extract(epoch FROM max(before))::float8 AS before FROM notification_revocation
    WHERE {UNSEEN.format(tx="revoked_tx")} GROUP BY user_id
""")
"""Whose tokens were taken back."""

_IDS = "string_agg(int8send(id), ''::bytea ORDER BY id)"
"""Ids as 8 bytes each, big-endian: a million rows of one recipient come as one value, without a Python object each."""

UNREAD_IDS = _statement(f"""
    SELECT recipient_id, {_IDS} AS ids FROM unread_notification
    WHERE recipient_id = ANY(:recipients) GROUP BY recipient_id
""")
"""What a full replay shows, oldest first. Ids only: asked for bodies the planner walks the primary key."""

CHANGED_IDS = _statement(f"""
    SELECT recipient_id, {_IDS} AS ids FROM notification
    WHERE recipient_id = ANY(:recipients) AND {UNSEEN.format(tx="changed_tx")} GROUP BY recipient_id
""")
"""Rows made, changed or read since a floor; read and hidden ones too, for the client must hear of that."""

DELETIONS = _statement(f"""
    SELECT recipient_id, id, deleted_tx FROM notification_deleted
    WHERE recipient_id = ANY(:recipients) AND {UNSEEN.format(tx="deleted_tx")}
""")
"""Rows deleted since a floor."""


def _milliseconds(name: str) -> str:
    """Epoch milliseconds, rounded down: `extract` is exact to the microsecond (numeric), as Debezium's strings are."""
    return f"floor(extract(epoch FROM {name}) * 1000)::bigint AS {name}"


ROWS = _statement(f"""
    SELECT id, recipient_id, version, type, title, body, data::text AS data, actor_id, channel,
           {_milliseconds("created_at")}, {_milliseconds("expires_at")}, {_milliseconds("read_at")},
           inserted_tx, changed_tx
    FROM notification WHERE id = ANY(:ids) ORDER BY id
""")
"""Bodies, by primary key. The columns are the fields of `Notification`, in their order."""

COUNT_UNREAD = _statement("""
    SELECT recipient, (SELECT count(*) FROM (
        SELECT FROM unread_notification WHERE recipient_id = recipient LIMIT :most
    ) AS first) AS count FROM unnest(:recipients) AS recipient
""")
"""How many are unread, up to a bound: to count 200,000 takes 98 ms, and nobody reads the number."""

EXPIRED = _statement("""
    SELECT now() AS at, ARRAY(
        SELECT DISTINCT recipient_id FROM notification
        WHERE expires_at > :since AND expires_at <= now() AND read_at IS NULL AND recipient_id = ANY(:recipients)
    ) AS recipients
""")
"""Whose rows have left the unread query since by themselves."""

UNSEEN_OF = _statement(f"""
    SELECT count(*) FROM unnest(:seen) AS tx WHERE NOT pg_visible_in_snapshot(tx::text::xid8, pg_current_snapshot())
    AND EXISTS (SELECT FROM rowbell_epoch WHERE epoch = :epoch AND {HOLDS})
""")
"""How many of these transactions of an epoch SQL does not see yet: the log is decoded before a commit is visible, and
stays ahead for as long as the commit waits for a synchronous standby."""

UNREAD_OF = """SELECT id FROM notification
    WHERE recipient_id = :recipient AND read_at IS NULL AND channel = 'IN_APP'"""
LOCK = "ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"
"""What somebody has locked is passed over and tried again: nobody waits for it, and nothing can deadlock."""
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
"""What a subscription's ledger says was sent. A row that expired before was not."""

MARK_GIVEN = _statement(f"""
    WITH portion AS ({GIVEN} ORDER BY id LIMIT :most),
    marked AS ({GIVEN} AND id <= (SELECT max(id) FROM portion) {LOCK}),
    updated AS ({MARK})
    SELECT (SELECT max(id) FROM portion) AS last,
           (SELECT count(*) FROM portion) = (SELECT count(*) FROM marked) AS all_of_them
""")
"""A portion of what was given, and where it ends (NULL: nothing is left). The condition stands at the lock too: there
PostgreSQL checks it again on a row that changed meanwhile, so that a version that was not given is never marked."""

RECORD_DELIVERIES = _statement("""
    INSERT INTO notification_delivery (notification_id, user_id)
    SELECT id, user_id FROM unnest(:ids, :users) AS delivery (id, user_id) ORDER BY 1, 2
    ON CONFLICT DO NOTHING
""")
"""In one order, or two gateways with the same rows deadlock."""

PING = text("SELECT 1")
