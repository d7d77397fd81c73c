"""What PostgreSQL says that a migrated database consists of, as lines for people to read.

The same for every version of PostgreSQL: where versions print differently, the older form is brought to the newer.
"""

from __future__ import annotations

from psycopg import Connection
from psycopg.rows import TupleRow

OURS = "(relname LIKE 'notification%' OR relname LIKE 'rowbell%' OR relname = 'unread_notification')"

QUERIES = {
    "tables": f"""
        SELECT format('%s %s%s, replica identity %s%s',
                      CASE relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' ELSE 'sequence' END, relname,
                      CASE relpersistence WHEN 'u' THEN ', unlogged' ELSE '' END,
                      CASE relreplident WHEN 'd' THEN 'primary key' WHEN 'i' THEN 'index' WHEN 'n' THEN 'nothing' END,
                      ', with ' || array_to_string(reloptions, ', '))
        FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('i', 't') AND {OURS} ORDER BY relname
    """,
    "columns": f"""
        SELECT format('%s.%s %s%s%s', relname, attname, format_type(atttypid, atttypmod),
                      CASE WHEN attnotnull THEN ' not null' ELSE '' END,
                      CASE WHEN attidentity = 'a' THEN ', always identity'
                           ELSE ', default ' || pg_get_expr(adbin, adrelid) END)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped AND {OURS}
        ORDER BY relname, attnum
    """,
    # NOT NULL is among the columns; PostgreSQL 18 lists it here too.
    "constraints": f"""
        SELECT format('%s.%s %s', relname, conname, pg_get_constraintdef(pg_constraint.oid))
        FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
        WHERE connamespace = 'public'::regnamespace AND contype <> 'n' AND {OURS} ORDER BY relname, conname
    """,
    "indexes": f"""
        SELECT pg_get_indexdef(indexrelid) || CASE WHEN indisreplident THEN ', replica identity' ELSE '' END
        FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
        WHERE relnamespace = 'public'::regnamespace AND {OURS} ORDER BY indexrelid::regclass::text
    """,
    "triggers": f"""
        SELECT format('%s, %s', pg_get_triggerdef(pg_trigger.oid),
                      CASE tgenabled WHEN 'A' THEN 'always' WHEN 'O' THEN 'origin only' ELSE tgenabled::text END)
        FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE relnamespace = 'public'::regnamespace AND NOT tgisinternal AND {OURS} ORDER BY tgname
    """,
    "functions": """
        SELECT pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND (proname LIKE 'notification%' OR proname LIKE 'rowbell%')
        ORDER BY proname
    """,
    # Before 16 each column is printed with its table.
    "views": """
        SELECT format('%s:%s', relname, replace(pg_get_viewdef(oid), 'notification.', ''))
        FROM pg_class WHERE oid = 'unread_notification'::regclass
    """,
    "publications": """
        SELECT format('%s publishes%s%s%s%s%s%s', pubname, CASE WHEN pubinsert THEN ' insert' END,
                      CASE WHEN pubupdate THEN ' update' END, CASE WHEN pubdelete THEN ' delete' END,
                      CASE WHEN pubtruncate THEN ' truncate' END, CASE WHEN puballtables THEN ' all tables' END,
                      CASE WHEN pubviaroot THEN ' via root' END)
        FROM pg_publication WHERE pubname LIKE 'notification%'
        UNION ALL
        SELECT format('%s of %s.%s (%s)%s', pubname, schemaname, tablename, array_to_string(attnames, ', '),
                      ' where ' || rowfilter)
        FROM pg_publication_tables WHERE pubname LIKE 'notification%' ORDER BY 1
    """,
    "roles": """
        SELECT format('%s%s%s%s%s%s%s', rolname, CASE WHEN rolcanlogin THEN ' login' END,
                      CASE WHEN rolsuper THEN ' superuser' END, CASE WHEN rolcreaterole THEN ' createrole' END,
                      CASE WHEN rolcreatedb THEN ' createdb' END, CASE WHEN rolreplication THEN ' replication' END,
                      CASE WHEN rolbypassrls THEN ' bypassrls' END)
        FROM pg_roles WHERE rolname LIKE 'rowbell%' ORDER BY 1
    """,
    # The owner's rights are left out.
    "rights": f"""
        SELECT format('%s may %s %s%s', coalesce(rolname, 'everybody'), lower(string_agg(privilege_type, ', ' ORDER BY
                      privilege_type)), relname, columns)
        FROM (
            SELECT relname, relowner AS owner, '' AS columns, acl.* FROM pg_class, aclexplode(relacl) AS acl
            WHERE relnamespace = 'public'::regnamespace AND {OURS}
            UNION ALL
            SELECT relname, min(relowner::text)::oid,
                   format(' (%s)', string_agg(attname, ', ' ORDER BY attnum)), acl.*
            FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid, aclexplode(attacl) AS acl
            WHERE relnamespace = 'public'::regnamespace AND {OURS}
            GROUP BY relname, acl.*, acl.grantor, acl.grantee, acl.privilege_type, acl.is_grantable
            UNION ALL
            SELECT proname || '()', proowner, '', acl.* FROM pg_proc, aclexplode(proacl) AS acl
            WHERE pronamespace = 'public'::regnamespace AND (proname LIKE 'notification%' OR proname LIKE 'rowbell%')
        ) AS granted LEFT JOIN pg_roles ON pg_roles.oid = grantee
        WHERE grantee <> owner GROUP BY rolname, relname, columns ORDER BY 1
    """,
}


def listing(connection: Connection[TupleRow]) -> str:
    """The database of this connection, section by section."""
    return "\n\n".join(f"# {title}\n{_section(connection, query)}" for title, query in QUERIES.items()) + "\n"


def _section(connection: Connection[TupleRow], query: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(query.encode())
        return "\n".join(line.strip() for (line,) in cursor)
