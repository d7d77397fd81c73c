"""Where a body ends, what is UTF-8, and what the body of a MESSAGE is."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.integration.rows import Database, insert, unread
from tests.protocol.wire import NOTIFICATIONS, READ, TEXT, UNREAD, VERSIONS, Raw, Site, frame

Names = Callable[[str], str]

every_version = pytest.mark.parametrize("version", VERSIONS)


def read(id: int, length: str) -> str:
    """SEND, to mark this row as read, with this content-length."""
    body = f'{{"ids":[{id}]}}'
    return frame("SEND", f"destination:{READ}", f"content-length:{length.format(len(body))}", "receipt:r", body=body)


class TestRule13Bodies:
    @every_version
    @pytest.mark.parametrize("length", ["{}", "00{}", "{:010d}"])
    async def test_content_length_is_one_to_ten_digits(
        self, site: Site, database: Database, user: Names, version: str, length: str
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        body = f'{{"ids":[{id}]}}'
        async with site.connected(alice, version) as wire:
            await wire.send(read(id, length.format(len(body))))
            assert (await wire.next()).headers == {"receipt-id": "r"}
        assert await unread(database, alice) == []

    @pytest.mark.parametrize(
        "length",
        ["", " {}", "{} ", "+{}", "-1", "1_0", "٥", "１２", "²", "0x10", "1e1", "{}.0", "00000000011", "ten", "{}\t"],
    )
    async def test_any_other_content_length_is_an_error(
        self, site: Site, database: Database, user: Names, length: str
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice) as wire:
            await wire.send(read(id, length))
            error, code = await wire.refused()
        assert (error.headers["message"], code) == ("The content-length header is malformed", 1002)
        assert error.headers["receipt-id"] == "r"
        assert await unread(database, alice) == [id]

    @every_version
    @pytest.mark.parametrize(("more", "behind"), [(-1, ""), (-5, ""), (1, "\n\n"), (9, frame("UNSUBSCRIBE", "id:x"))])
    async def test_a_content_length_that_is_not_the_bodys_is_an_error(
        self, site: Site, database: Database, user: Names, version: str, more: int, behind: str
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice, version) as wire:
            length = len(f'{{"ids":[{id}]}}') + more
            await wire.send(read(id, str(length)), *([behind] if behind else []))
            error, code = await wire.refused()
        assert (error.headers["message"], code) == ("The content-length header does not match the body", 1002)
        assert error.headers["receipt-id"] == "r"
        assert await unread(database, alice) == [id]

    async def test_content_length_counts_octets(self, site: Site) -> None:
        body = "é€😀"
        async with site.connected("alice") as wire:
            octets = str(len(body.encode()))
            await wire.send(frame("UNSUBSCRIBE", "id:x", f"content-length:{octets}", "receipt:r", body=body))
            assert (await wire.next()).headers == {"receipt-id": "r"}
            characters = str(len(body))
            await wire.send(frame("UNSUBSCRIBE", "id:x", f"content-length:{characters}", body=body))
            assert (await wire.refused())[1] == 1002

    async def test_a_content_length_beyond_the_limit_is_an_error_at_once(self, site: Site) -> None:
        async with site.connected("alice") as wire:
            await wire.send(f"SEND\ndestination:{READ}\ncontent-length:65536\n\n")
            assert (await wire.refused())[1] == 1002

    @every_version
    async def test_a_body_that_holds_a_nul_needs_content_length(self, site: Site, version: str) -> None:
        async with site.connected("alice", version) as wire:
            await wire.send(frame("UNSUBSCRIBE", "id:x", "receipt:with", "content-length:5", body="a\0b\0c"))
            assert (await wire.next()).headers == {"receipt-id": "with"}
            await wire.send(frame("UNSUBSCRIBE", "id:x", "receipt:without", body="a\0b\0c"))
            assert (await wire.next()).headers == {"receipt-id": "without"}  # the frame ends at the first NUL
            error, code = await wire.refused()  # and "b" is no frame
        assert (error.headers["message"], code) == ("This is not a STOMP frame", 1002)

    @pytest.mark.parametrize("octets", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"])
    async def test_headers_that_are_not_utf_8_are_an_error(self, site: Site, octets: bytes) -> None:
        async with site.connected("alice") as wire:
            await wire.send(b"UNSUBSCRIBE\nid:" + octets + b"\n\n\0")
            error, code = await wire.refused()
        assert (error.headers["message"], code) == ("The headers are not UTF-8", 1002)

    async def test_a_connect_that_is_not_utf_8_is_an_error(self, site: Site) -> None:
        async with site.open(f"/stomp?token={site.token('alice')}") as wire:
            await wire.send(b"CONNECT\naccept-version:1.2\nlogin:\xff\n\n\0")
            assert (await wire.refused())[1] == 1002

    async def test_a_body_that_is_not_utf_8_is_an_error_and_never_a_1011(self, site: Site) -> None:
        async with site.connected("alice") as wire:
            await wire.send(f'SEND\ndestination:{READ}\nreceipt:r\n\n{{"ids":"'.encode() + b'\xff"}\0')
            error, code = await wire.refused()
        assert (error.headers["receipt-id"], code) == ("r", 1002)

    async def test_a_text_message_that_is_not_utf_8_closes_with_1007(self, site: Site) -> None:
        async with site.connected("alice") as wire:
            await wire.opened.send(b"UNSUBSCRIBE\nid:\xff\n\n\0", text=True)
            assert await wire.rest() == ([], 1007)


class TestRule21BodiesAreJson:
    TITLE = 'é€😀 "quoted" \\ back, line\nand \u2028, <b>&amp;'

    async def test_a_body_is_one_json_object_in_utf_8_text(self, site: Site, database: Database, user: Names) -> None:
        alice = user("alice")
        data = json.dumps({"nul": "\\u0000", "nested": [1, {"ü": None}]})
        id = await insert(database, alice, self.TITLE, data=data, body="ß")
        async with Raw.open(site.port) as raw:
            await raw.shake_hands(f"/stomp?token={site.token(alice)}")
            raw.write(
                frame("CONNECT", "accept-version:1.2") + frame("SUBSCRIBE", "id:1", f"destination:{NOTIFICATIONS}")
            )
            _, connected = await raw.read()
            first, payload = await raw.read()
        head, _, body = payload.partition(b"\n\n")
        assert (first & 0x0F, connected[:9], body[-1:]) == (TEXT, b"CONNECTED", b"\0")
        assert b"\ncontent-type:application/json\n" in head
        row = json.loads(body[:-1].decode("utf-8", "strict"))
        assert (row["id"], row["title"], row["body"], row["data"]) == (id, self.TITLE, "ß", json.loads(data))
        assert "é€😀".encode() in body

    async def test_so_is_each_event_and_the_number(self, site: Site, database: Database, user: Names) -> None:
        alice = user("alice")
        async with site.connected(alice) as wire:
            number, *_ = await wire.subscribe("2", UNREAD)
            await wire.subscribe("1")
            id = await insert(database, alice)
            created = await wire.message(id)
            await database.execute("UPDATE notification SET read_at = now() WHERE id = %s", [id])
            updated = (await wire.until("MESSAGE", event="updated"))[-1]
            await database.execute("DELETE FROM notification WHERE id = %s", [id])
            deleted = (await wire.until("MESSAGE", event="deleted"))[-1]
        assert json.loads(number.body) == {"unread": 0}
        assert [json.loads(each.body)["event"] for each in (created, updated)] == ["created", "updated"]
        assert json.loads(deleted.body) == {"event": "deleted", "id": id, "recipientId": alice}

    async def test_the_same_text_comes_without_stomp(self, site: Site, database: Database, user: Names) -> None:
        alice = user("alice")
        id = await insert(database, alice, self.TITLE)
        async with Raw.open(site.port) as raw:
            await raw.shake_hands(f"/ws?token={site.token(alice)}")
            said: list[dict[str, object]] = []
            while not (said and "event" in said[-1]):
                first, payload = await raw.read()
                assert first & 0x0F == TEXT
                said.append(json.loads(payload.decode()))
        assert (said[-1]["id"], said[-1]["title"]) == (id, self.TITLE)
