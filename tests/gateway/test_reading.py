"""Marking as read over the wire, and the number of unread rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import psycopg
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection

from rowbell.config import MAX_SUBSCRIPTIONS
from rowbell.gateway.badge import UNACKNOWLEDGED, rendered
from rowbell.gateway.marks import IDS_OF_A_USER
from rowbell.gateway.session import PROMISES
from rowbell.inbox import MOST_UNREAD, Given, Inbox
from rowbell.inbox.schema import migrate
from rowbell.notification import Change
from tests.gateway.conftest import Running
from tests.gateway.test_gateway import close_code, next_frame, say_hello, socket
from tests.integration.processes import eventually
from tests.integration.rows import insert, unread
from tests.integration.subscriber import READ, UNREAD, Subscriber
from tests.postgres_server import PostgresServer

Database = psycopg.AsyncConnection[tuple[object, ...]]


@asynccontextmanager
async def locked(database: Database, id: int) -> AsyncIterator[Database]:
    """Somebody's transaction that holds the row; what is done in it is committed at the end."""
    async with await psycopg.AsyncConnection.connect(database.info.dsn, password="") as other, other.transaction():
        await other.execute("SELECT FROM notification WHERE id = %s FOR UPDATE", [id])
        yield other


class TestIds:
    async def test_the_rows_are_marked_before_the_receipt_and_every_device_sees_it(
        self, running_gateway: Running, database: Database
    ) -> None:
        ids = [await insert(database, "ids") for _ in range(3)]
        async with running_gateway.subscriber("ids") as phone, running_gateway.subscriber("ids") as tablet:
            await phone.read(*ids[:2])
            assert await unread(database, "ids") == ids[2:]
            for device in (phone, tablet):
                await device.until(lambda d=device: len(d.messages) == 5, "the updates")  # type: ignore[misc]
                assert sorted(device.subscriptions[0].ids("updated")) == ids[:2]

    async def test_other_peoples_hidden_and_missing_rows_are_left_alone(
        self, running_gateway: Running, database: Database
    ) -> None:
        bobs = await insert(database, "bob-of-reading")
        hidden = await insert(database, "mallory", channel="EMAIL")
        async with running_gateway.subscriber("mallory") as mallory:
            await mallory.read(bobs, hidden, 2**53 - 1)
        assert await unread(database, "bob-of-reading") == [bobs]
        cursor = await database.execute("SELECT count(*) FROM notification WHERE id = %s AND read_at IS NULL", [hidden])
        assert await cursor.fetchone() == (1,)

    async def test_what_is_read_already_is_not_changed_again(
        self, running_gateway: Running, database: Database
    ) -> None:
        id = await insert(database, "again")
        async with running_gateway.subscriber("again") as client:
            await client.read(id)
            await client.read(id)
        cursor = await database.execute("SELECT version FROM notification WHERE id = %s", [id])
        assert await cursor.fetchone() == (2,)

    async def test_a_row_that_somebody_has_locked_is_marked_when_it_is_free_and_holds_up_nobody(
        self, running_gateway: Running, database: Database
    ) -> None:
        ids = [await insert(database, "waits") for _ in range(3)]
        other = await insert(database, "goes-on")
        async with running_gateway.subscriber("waits") as waits, running_gateway.subscriber("goes-on") as goes_on:
            async with locked(database, ids[0]):
                for _ in range(4):  # more than there are turns
                    await waits.send("SEND", f'{{"ids":{ids}}}', destination=READ, receipt="marked")
                await goes_on.read(other)
                assert await unread(database, "goes-on") == []
                await eventually("the others are marked", lambda: _left(database, "waits", ids[:1]))
            await waits.until(lambda: waits.subscriptions[0].receipts.count("marked") == 4, "the receipts")
            assert await unread(database, "waits") == []

    async def test_what_was_asked_for_is_done_though_the_client_is_gone(
        self, running_gateway: Running, database: Database
    ) -> None:
        id = await insert(database, "gone")
        async with running_gateway.subscriber("gone") as client, locked(database, id):
            await client.send("SEND", f'{{"ids":[{id}]}}', destination=READ)
            await client.send("DISCONNECT", receipt="bye")
            await client.until(lambda: client.subscriptions[0].closed, "the close")

        async def marked() -> bool:
            return await unread(database, "gone") == []

        await eventually("the row is read", marked)

    async def test_the_receipt_of_disconnect_says_that_it_is_done(
        self, running_gateway: Running, database: Database
    ) -> None:
        id = await insert(database, "leaves")
        async with running_gateway.subscriber("leaves") as client:
            async with locked(database, id):
                await client.send("SEND", f'{{"ids":[{id}]}}', destination=READ)
                await client.send("DISCONNECT", receipt="bye")
                await eventually("it waits", lambda: "leaves" in running_gateway.gateway._marks._tasks)
                assert "bye" not in client.subscriptions[0].receipts
            await client.until(lambda: client.subscriptions[0].closed, "the close")
            assert "bye" in client.subscriptions[0].receipts
            assert await unread(database, "leaves") == []

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ("", "Input data was truncated"),
            ("[1]", "Expected `object`"),
            ("{}", "Give either ids or all"),
            ('{"all":true,"ids":[1]}', "Give either ids or all"),
            ('{"all":false}', "Give either ids or all"),
            ('{"ids":["1"]}', "Expected `int`, got `str`"),
            ('{"ids":[1],"user":"bob"}', "unknown field `user`"),
            ('{"ids":[0]}', ">= 1"),
            ('{"ids":[9007199254740992]}', "<= 9007199254740991"),
            ('{"ids":[99999999999999999999999]}', "<= 9007199254740991"),
        ],
    )
    async def test_a_body_that_says_neither_is_refused_with_advice(
        self, running_gateway: Running, body: str, reason: str
    ) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened)
            await opened.send(f"SEND\ndestination:{READ}\nreceipt:r\n\n{body}\0")
            error = await next_frame(opened)
            assert (error.command, error.headers["receipt-id"]) == ("ERROR", "r")
            assert reason in error.body
            assert '{"ids":[42,43]}' in error.body
            assert await close_code(opened) == 1002

    async def test_another_destination_is_refused_with_the_one_there_is(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened)
            await opened.send("SEND\ndestination:/app/notifications/raed\n\n{}\0")
            assert READ in (await next_frame(opened)).body

    async def test_a_thousand_and_one_ids_are_refused(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened)
            await opened.send(f"SEND\ndestination:{READ}\n\n" + '{"ids":[' + ",".join(["1"] * 1001) + "]}\0")
            assert "Expected `array` of length <= 1000" in (await next_frame(opened)).body

    async def test_what_waits_for_postgresql_is_bounded_for_each_user_however_often_they_reconnect(
        self, running_gateway: Running, database: Database
    ) -> None:
        id = await insert(database, "clicks")
        refused = 0
        async with locked(database, id):
            for session in range(3):
                async with socket(running_gateway) as opened:
                    await say_hello(opened, "clicks")
                    for n in range(8):
                        first = id if session == n == 0 else 10**6 + 10_000 * session + 1000 * n
                        ids = ",".join(map(str, [first, *range(10**9 + first, 10**9 + first + 999)]))
                        await opened.send(f'SEND\ndestination:{READ}\n\n{{"ids":[{ids}]}}\0')
                    await opened.send("UNSUBSCRIBE\nid:none\nreceipt:all-read\n\n\0")
                    frame = await next_frame(opened)
                    if frame.command == "ERROR":
                        refused += 1
                        assert "try again later" in frame.headers["message"]
                        assert await close_code(opened) == 1013
            assert refused == 2
            assert running_gateway.gateway._marks._ids <= IDS_OF_A_USER

        async def marked() -> bool:
            return await unread(database, "clicks") == []

        await eventually("what was taken is done", marked)
        await eventually("nothing is kept", lambda: running_gateway.gateway._marks._ids == 0)

    async def test_receipts_that_wait_for_postgresql_are_bounded(
        self, running_gateway: Running, database: Database
    ) -> None:
        id = await insert(database, "receipts")
        async with socket(running_gateway) as opened, locked(database, id):
            await say_hello(opened, "receipts")
            await opened.send(f'SEND\ndestination:{READ}\nreceipt:r\n\n{{"ids":[{id}]}}\0' * (PROMISES + 1))
            assert (await next_frame(opened)).command == "ERROR"
            assert await close_code(opened) == 1013

    async def test_what_waits_when_the_database_begins_a_new_epoch_is_marked_all_the_same(
        self, running_gateway: Running, database: Database
    ) -> None:
        gateway = running_gateway.gateway
        ids = [await insert(database, "crash") for _ in range(3)]

        async def mark(id: int, opened: ClientConnection) -> None:
            await say_hello(opened, "crash")
            await opened.send(f'SEND\ndestination:{READ}\n\n{{"ids":[{id}]}}\0')

        async with locked(database, ids[0]):
            async with socket(running_gateway) as first, socket(running_gateway) as second:
                await mark(ids[0], first)
                await eventually("the first is in work", lambda: gateway._marks._tasks and not gateway._marks._pending)
                await mark(ids[1], second)
                await eventually("the second waits for it", lambda: gateway._marks._ids == 1)
                await database.execute("DELETE FROM rowbell_epoch")  # as if it had crashed
                assert await close_code(first) == 1012
            async with socket(running_gateway) as third:
                await mark(ids[2], third)
                await eventually("the third waits too", lambda: gateway._marks._ids == 2)

        async def marked() -> bool:
            return await unread(database, "crash") == []

        await eventually("all of them are read", marked)
        await eventually("nothing is kept", lambda: gateway._marks._ids == 0)

    async def test_a_database_that_refuses_ends_the_session_that_asked_and_no_other(
        self, running_gateway: Running, database: Database
    ) -> None:
        """An application may have triggers and CHECKs of its own."""
        held, other = await insert(database, "held"), await insert(database, "not-held")
        await database.execute("""
            CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'legal hold'; END $$;
            CREATE TRIGGER hold BEFORE UPDATE ON notification FOR EACH ROW WHEN (OLD.recipient_id = 'held')
            EXECUTE FUNCTION hold()
        """)
        try:
            async with (
                running_gateway.subscriber("held") as client,
                running_gateway.subscriber("not-held") as bystander,
            ):
                await client.send("SEND", f'{{"ids":[{held}]}}', destination=READ, receipt="never")
                await client.until(lambda: client.subscriptions[0].closed, "the close")
                assert client.subscriptions[0].closed == 1008
                assert "the database refused" in client.errors[0].headers["message"]
                assert "legal hold" not in str(client.errors[0])
                await bystander.read(other)
                assert await unread(database, "not-held") == []
        finally:
            await database.execute("DROP TRIGGER hold ON notification; DROP FUNCTION hold()")

    async def test_the_log_says_what_refused_and_nothing_of_the_row(
        self, running_gateway: Running, database: Database
    ) -> None:
        """PostgreSQL quotes the whole row, and the driver the statement's parameters."""
        id = await insert(database, "checked", "Your lab result")
        await database.execute("""
            ALTER TABLE notification ADD CONSTRAINT unread_for_ever CHECK (recipient_id <> 'checked' OR read_at IS NULL)
        """)
        try:
            with capture_logs() as logs:
                async with running_gateway.subscriber("checked") as client:
                    await client.send("SEND", f'{{"ids":[{id}]}}', destination=READ, receipt="never")
                    await client.until(lambda: client.subscriptions[0].closed, "the close")
        finally:
            await database.execute("ALTER TABLE notification DROP CONSTRAINT unread_for_ever")
        [said] = [each for each in logs if each["event"] == "mark_refused"]
        assert "unread_for_ever" in said["reason"]
        assert "Your lab result" not in str(logs)
        assert "checked" not in str(said)

    async def test_a_row_that_sql_does_not_see_yet_is_marked_when_it_does(
        self, running_gateway: Running, database: Database
    ) -> None:
        """The stream brings it while its commit waits for a synchronous standby; the receipt waits, too."""
        async with running_gateway.subscriber("ahead") as client:
            async with await psycopg.AsyncConnection.connect(database.info.dsn) as writer:
                id = await insert(writer, "ahead")
                cursor = await writer.execute("SELECT changed_tx, inserted_tx FROM notification WHERE id = %s", [id])
                row = await cursor.fetchone()
                assert row is not None
                change = Change(id, "ahead", 1, int(row[1]), int(row[0]), f'"id":{id},"version":1}}')
                await running_gateway.gateway.deliver([change])
                await client.until(lambda: id in client.seen, "the row, ahead of its visibility")
                await client.send("SEND", f'{{"ids":[{id}]}}', destination=READ, receipt="ids")
                await client.send("SEND", '{"all":true}', destination=READ, receipt="all")
                await client.send("UNSUBSCRIBE", id="none", receipt="both-read")
                await client.until(lambda: "both-read" in client.subscriptions[0].receipts, "both are in work")
                assert "ids" not in client.subscriptions[0].receipts
                await writer.commit()
            await client.until(lambda: {"ids", "all"} <= set(client.subscriptions[0].receipts), "the receipts")
            assert await unread(database, "ahead") == []


class TestAll:
    async def test_all_is_what_came_and_was_acknowledged(self, running_gateway: Running, database: Database) -> None:
        """A row that commits between the click and the UPDATE: its frame is on the way when the client says `all`."""
        seen = [await insert(database, "all") for _ in range(3)]
        async with running_gateway.subscriber("all", "client-individual") as client:
            await client.until(lambda: len(client.messages) == 3, "what was unread")
            client.acknowledge = False  # from here on nothing has reached the person who clicks
            on_its_way = await insert(database, "all")
            await client.until(lambda: on_its_way in client.seen, "the row on its way")
            await client.read()
            assert await unread(database, "all") == [on_its_way]
            await client.until(lambda: set(client.subscriptions[0].ids("updated")) == set(seen), "the updates")

    async def test_what_the_client_refused_is_not_in_all(self, running_gateway: Running, database: Database) -> None:
        ids = [await insert(database, "refuses") for _ in range(3)]
        client = running_gateway.subscriber("refuses", "client-individual")
        client.acknowledge = False
        async with client:
            await client.until(lambda: len(client.messages) == 3, "what was unread")
            for command, message in zip(("ACK", "NACK", "ACK"), client.messages, strict=True):
                await client.send(command, id=message.headers["ack"])
            await client.read()
            assert await unread(database, "refuses") == [ids[1]]

    async def test_a_row_that_commits_while_all_is_being_marked_stays_unread(
        self, running_gateway: Running, database: Database
    ) -> None:
        """It waits for a locked row: what commits meanwhile, and what the lock's owner changed, is left."""
        given = [await insert(database, "between") for _ in range(3)]
        async with running_gateway.subscriber("between") as client:
            await client.until(lambda: len(client.messages) == 3, "what was unread")
            async with locked(database, given[1]) as other:
                await client.send("SEND", '{"all":true}', destination=READ, receipt="all")
                await eventually("the others are marked", lambda: _left(database, "between", given[1:2]))
                late = await insert(database, "between")
                await other.execute("UPDATE notification SET title = 'Other' WHERE id = %s", [given[1]])
            await client.until(lambda: "all" in client.subscriptions[0].receipts, "the receipt")
            assert await unread(database, "between") == [given[1], late]

    async def test_a_transaction_that_commits_late_is_not_in_all_though_its_ids_are_lower(
        self, running_gateway: Running, database: Database
    ) -> None:
        first = await insert(database, "late-all")
        async with (
            await psycopg.AsyncConnection.connect(database.info.dsn) as writer,
            running_gateway.subscriber("late-all") as client,
        ):
            late = await insert(writer, "late-all")
            later = await insert(database, "late-all")
            await client.until(lambda: {first, later} <= client.seen, "what is committed")
            await client.send("SEND", '{"all":true}', destination=READ, receipt="all")
            await client.until(lambda: "all" in client.subscriptions[0].receipts, "the receipt")
            await writer.commit()
            assert await unread(database, "late-all") == [late]
            await client.until(lambda: late in client.seen, "the late row")
            await client.read()
            assert await unread(database, "late-all") == []

    async def test_all_of_thousands_is_marked_to_the_end(self, running_gateway: Running, database: Database) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title) SELECT 'many', 'n' || n FROM generate_series(1, 12000) n"
        )
        async with running_gateway.subscriber("many") as client:
            await client.read()
        assert await unread(database, "many") == []

    async def test_what_expired_before_it_was_shown_is_not_in_all(
        self, running_gateway: Running, database: Database
    ) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title, expires_at) VALUES ('late-riser', 'Gone', now())"
        )
        async with running_gateway.subscriber("late-riser") as client:
            assert client.messages == []
            await client.read()
            await database.execute(
                "UPDATE notification SET expires_at = now() + interval '1 day' WHERE recipient_id = 'late-riser'"
            )
            assert len(await unread(database, "late-riser")) == 1

    async def test_a_flood_of_all_from_one_client_leaves_others_their_turn(
        self, running_gateway: Running, database: Database
    ) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title) SELECT 'flood', 'n' || n FROM generate_series(1, 3000) n"
        )
        flood = running_gateway.subscriber("flood", "client-individual")
        flood.acknowledge = False
        async with flood, socket(running_gateway) as other:
            await say_hello(other, "calm")
            again = f'\0SEND\ndestination:{READ}\n\n{{"all":true}}' * 800
            await flood.send("SEND", '{"all":true}' + again, destination=READ)
            await flood.send("UNSUBSCRIBE", id="none", receipt="flooded")
            await other.send("UNSUBSCRIBE\nid:none\nreceipt:calm\n\n\0")
            assert (await next_frame(other)).headers["receipt-id"] == "calm"
            assert "flooded" not in flood.subscriptions[0].receipts, (
                "the calm one has its turn before the flood is over"
            )
            await flood.until(lambda: "flooded" in flood.subscriptions[0].receipts, "the end of the flood", 60)
            assert len(running_gateway.gateway._marks._pending) <= 1

    async def test_without_statistics_all_is_marked_by_an_index(self, server: PostgresServer) -> None:
        with server.database() as name:
            migrate(server.url(name))
            async with await psycopg.AsyncConnection.connect(server.url(name), autocommit=True) as sql:
                await sql.execute("ALTER TABLE notification SET (autovacuum_enabled = off)")
                await sql.execute(
                    "INSERT INTO notification (recipient_id, title) SELECT 'new', 'n' FROM generate_series(1, 20000)"
                )
            inbox = Inbox.connect(server.url(name))
            try:
                epoch = await inbox.new_epoch()
                now = (await inbox.tick(None, list)).snapshot
                async with asyncio.timeout(20):  # it took minutes where the planner joined every row with every row
                    assert await inbox.mark_given("new", Given(epoch, now, now, 0, {}, []))
                assert await inbox.count_unread(["new"]) == {"new": 0}
            finally:
                await inbox.close()

    async def test_two_devices_that_mark_all_at_once_leave_nothing(
        self, running_gateway: Running, database: Database
    ) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title) SELECT 'both', 'n' || n FROM generate_series(1, 12000) n"
        )
        async with running_gateway.subscriber("both") as phone, running_gateway.subscriber("both") as tablet:
            await asyncio.gather(phone.read(), tablet.read())
            cursor = await database.execute("SELECT DISTINCT version FROM notification WHERE recipient_id = 'both'")
            assert await cursor.fetchall() == [(2,)]

    async def test_while_a_long_replay_is_read_all_is_what_came_of_it(
        self, running_gateway: Running, database: Database
    ) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title) SELECT 'slow', 'n' || n FROM generate_series(1, 8000) n"
        )
        client = running_gateway.subscriber("slow", "client-individual")
        client.acknowledge = False  # so the replay stops on its way
        client.start()
        try:
            await client.until(lambda: len(client.messages) >= 5000, "as many as may wait")
            acknowledged = [int(m.headers["notification-id"]) for m in client.messages[:10]]
            for message in client.messages[:10]:
                await client.send("ACK", id=message.headers["ack"])
            await client.read()
            left = await unread(database, "slow")
            assert len(left) == 7990
            assert not set(left) & set(acknowledged)
        finally:
            await client.stop()

    async def test_all_without_a_subscription_is_refused(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened)
            await opened.send(f'SEND\ndestination:{READ}\n\n{{"all":true}}\0')
            assert "Subscribe to /user/queue/notifications first" in (await next_frame(opened)).body


class TestBadge:
    async def test_the_number_comes_at_once_and_follows_the_table(
        self, running_gateway: Running, database: Database
    ) -> None:
        ids = [await insert(database, "badge") for _ in range(3)]
        async with (
            running_gateway.subscriber("badge", badge=True) as phone,
            running_gateway.subscriber("badge", "client-individual", badge=True) as tablet,
        ):
            for device in (phone, tablet):
                await device.until_unread(3)
            await insert(database, "badge")
            await insert(database, "badge", channel="EMAIL")
            await insert(database, "badge-of-somebody-else")
            await phone.until_unread(4)
            await tablet.read(ids[0])
            await phone.until_unread(3)
            await database.execute("UPDATE notification SET read_at = now() WHERE id = %s", [ids[1]])
            await phone.until_unread(2)
            await database.execute("DELETE FROM notification WHERE id = %s", [ids[2]])
            for device in (phone, tablet):
                await device.until_unread(1)
                told = device.subscriptions[0].unread
                assert all(one != other for one, other in pairwise(told)), "only changes are told"

    async def test_a_row_that_expires_leaves_the_number(self, running_gateway: Running, database: Database) -> None:
        async with running_gateway.subscriber("expires", badge=True) as client:
            await client.until_unread(0)
            await database.execute(
                "INSERT INTO notification (recipient_id, title, expires_at) "
                "VALUES ('expires', 'Soon', now() + interval '2 seconds')"
            )
            await client.until_unread(1)
            await client.until_unread(0)

    async def test_a_row_that_expires_just_after_the_first_badge_came_leaves_the_number(
        self, running_gateway: Running, database: Database
    ) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title, expires_at) "
            "VALUES ('at-once', 'Soon', now() + interval '300 milliseconds')"
        )
        async with running_gateway.subscriber("at-once", badge=True) as client:
            await client.until_unread(0)

    async def test_a_badge_alone_is_told_what_the_bus_brings(
        self, running_gateway: Running, database: Database
    ) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened, "alone")
            await opened.send(f"SUBSCRIBE\nid:u\ndestination:{UNREAD}\nreceipt:r\n\n\0")
            message = await next_frame(opened)
            assert (message.headers["destination"], message.body) == (UNREAD, '{"unread":0}')
            assert (await next_frame(opened)).headers["receipt-id"] == "r"
            assert await running_gateway.presence.gateways_of(["alone"]) != {}
            await insert(database, "alone")
            assert (await next_frame(opened)).body == '{"unread":1}'
            await opened.send("UNSUBSCRIBE\nid:u\nreceipt:gone\n\n\0")
            assert (await next_frame(opened)).headers["receipt-id"] == "gone"

            async def forgotten() -> bool:
                return await running_gateway.presence.gateways_of(["alone"]) == {}

            await eventually("presence forgets", forgotten)

    async def test_changes_come_at_most_five_times_a_second(self, running_gateway: Running, database: Database) -> None:
        async with running_gateway.subscriber("busy", badge=True) as client:
            await client.until_unread(0)
            begun = asyncio.get_running_loop().time()
            for _ in range(100):
                await insert(database, "busy")
                running_gateway.gateway._unread.recount(["busy"])
            await client.until_unread(100)
            took = asyncio.get_running_loop().time() - begun
            assert len(client.subscriptions[0].unread) <= 2 + took / 0.2

    async def test_beyond_a_thousand_it_says_more(self, running_gateway: Running, database: Database) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title) SELECT 'more', 'n' FROM generate_series(1, 1001)"
        )
        async with socket(running_gateway) as opened:
            await say_hello(opened, "more")
            await opened.send(f"SUBSCRIBE\nid:u\ndestination:{UNREAD}\n\n\0")
            assert (await next_frame(opened)).body == '{"unread":1000,"more":true}'
            await database.execute(
                "DELETE FROM notification WHERE id = (SELECT min(id) FROM notification WHERE recipient_id = 'more')"
            )
            assert (await next_frame(opened)).body == '{"unread":1000}'

    async def test_who_does_not_acknowledge_numbers_is_told_the_last_when_it_does(
        self, running_gateway: Running, database: Database
    ) -> None:
        client = running_gateway.subscriber("unacknowledged", "client", badge=True)
        client.acknowledge = False
        async with client:
            await client.until_unread(0)
            for badge in running_gateway.gateway._registry.badges.of("unacknowledged"):
                for count in range(1, UNACKNOWLEDGED + 50):
                    badge.show(count)
            await client.until_unread(UNACKNOWLEDGED - 1)
            assert len(client.subscriptions[0].unread) == UNACKNOWLEDGED

    @pytest.mark.parametrize("ack", ["auto", "client", "client-individual"])
    async def test_acknowledging_a_number_records_nothing(
        self, running_gateway: Running, database: Database, ack: str
    ) -> None:
        async with Acknowledging(running_gateway, "counted", ack) as told:
            assert told.errors == []

    def test_the_number_is_json(self) -> None:
        assert [rendered(n) for n in (0, MOST_UNREAD, MOST_UNREAD + 1)] == [
            '{"unread":0}',
            '{"unread":1000}',
            '{"unread":1000,"more":true}',
        ]


class Acknowledging:
    """A client that acknowledges numbers, as stock clients do whatever the message is; an ERROR would end it."""

    def __init__(self, running: Running, user: str, ack: str) -> None:
        self._client = running.subscriber(user, ack, badge=True)

    async def __aenter__(self) -> Subscriber:
        await self._client.__aenter__()
        await self._client.until_unread(0)
        await self._client.send("UNSUBSCRIBE", id="none", receipt="all-acknowledged")
        await self._client.until(lambda: "all-acknowledged" in self._client.subscriptions[0].receipts, "the receipt")
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.stop()


async def test_badges_count_as_subscriptions(running_gateway: Running) -> None:
    async with socket(running_gateway) as opened:
        await say_hello(opened, "greedy")
        for n in range(MAX_SUBSCRIPTIONS + 1):
            await opened.send(f"SUBSCRIBE\nid:{n}\ndestination:{UNREAD}\n\n\0")
        while (frame := await next_frame(opened)).command == "MESSAGE":
            pass
        assert str(MAX_SUBSCRIPTIONS) in frame.headers["message"]


async def _left(database: Database, user: str, ids: list[int]) -> bool:
    return await unread(database, user) == ids
