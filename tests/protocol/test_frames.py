"""Frames on the wire: how they are cut, what stands between them, and what their headers hold."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.integration.rows import Database, insert
from tests.protocol.wire import NOTIFICATIONS, PING, TEXT, UNREAD, VERSIONS, Frame, Raw, Site, frame

Names = Callable[[str], str]

WHOLE_TEXT = 0x80 | TEXT
"""The first octet of a WebSocket frame: the only one of its message, and text."""

BURST = 50

every_version = pytest.mark.parametrize("version", VERSIONS)
with_escapes = pytest.mark.parametrize("version", ["1.1", "1.2"])


class TestRule01AFrameIsAMessageOutAndPartOfAStreamIn:
    @pytest.mark.parametrize("encode", [str, str.encode], ids=["text", "binary"])
    async def test_a_frame_may_come_one_character_a_message(self, site: Site, encode: Callable[[str], str]) -> None:
        async with site.open() as wire:
            await wire.send(
                *map(encode, frame("CONNECT", "accept-version:1.2", f"Authorization:Bearer {site.token('a')}"))
            )
            assert (await wire.next()).command == "CONNECTED"
            await wire.send(*map(encode, frame("UNSUBSCRIBE", "id:x", "receipt:r")))
            assert (await wire.next()).headers == {"receipt-id": "r"}

    @pytest.mark.parametrize("encode", [str, str.encode], ids=["text", "binary"])
    async def test_many_frames_in_one_message_are_answered_in_as_many(
        self, site: Site, user: Names, encode: Callable[[str], str]
    ) -> None:
        frames = [
            frame("CONNECT", "accept-version:1.2", f"Authorization:Bearer {site.token(user('alice'))}"),
            frame("SUBSCRIBE", "id:1", f"destination:{NOTIFICATIONS}", "receipt:1"),
            frame("UNSUBSCRIBE", "id:1", "receipt:2"),
            frame("UNSUBSCRIBE", "id:1", "receipt:3"),
        ]
        async with site.open() as wire:
            await wire.send(encode("".join(frames)))
            answers = [await wire.next() for _ in frames]
        assert [answer.command for answer in answers] == ["CONNECTED", "RECEIPT", "RECEIPT", "RECEIPT"]
        assert {answer.headers.get("receipt-id") for answer in answers} == {None, "1", "2", "3"}

    async def test_a_cut_may_fall_within_a_character(self, site: Site) -> None:
        async with site.connected("alice") as wire:
            octets = frame("UNSUBSCRIBE", "id:x", "receipt:é€😀").encode()
            for cut in range(1, len(octets)):
                await wire.send(octets[:cut], octets[cut:])
                assert (await wire.next()).headers == {"receipt-id": "é€😀"}

    async def test_a_message_may_come_in_fragments(self, site: Site) -> None:
        async with Raw.open(site.port) as raw:
            assert (await raw.shake_hands(f"/stomp?token={site.token('alice')}"))[0] == 101
            head, tail = "CONNECT\naccept-ver", "sion:1.2\n\n\0"
            raw.write(head, fin=False)
            raw.write("", 0, fin=False)
            raw.write(b"between", PING)
            raw.write(tail, 0)
            answers = [await raw.read() for _ in range(2)]
        assert sorted(payload.partition(b"\n")[0] for _, payload in answers) == [b"CONNECTED", b"between"]

    async def test_text_and_binary_may_share_a_frame(self, site: Site) -> None:
        async with site.connected("alice") as wire:
            await wire.send("UNSUBSCRIBE\nid:x\n", b"receipt:r\n", "\n", b"\0")
            assert (await wire.next()).headers == {"receipt-id": "r"}

    @every_version
    async def test_each_frame_of_a_burst_is_one_text_message(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        for number in range(BURST):
            await insert(database, alice, f"Number {number}")
        async with Raw.open(site.port) as raw:
            assert (await raw.shake_hands(f"/stomp?token={site.token(alice)}"))[0] == 101
            connect = frame("CONNECT", f"accept-version:{version}")
            raw.write(connect + frame("SUBSCRIBE", "id:1", f"destination:{NOTIFICATIONS}", "receipt:r"))
            first, payload = await raw.read()
            assert Frame.parse(payload.decode()).command == "CONNECTED"
            firsts, frames = {first}, []
            while not frames or frames[-1].command != "RECEIPT":
                first, payload = await raw.read()
                firsts.add(first)
                frames.append(Frame.parse(payload.decode()))
        assert firsts == {WHOLE_TEXT}
        assert [each.command for each in frames] == ["MESSAGE"] * BURST + ["RECEIPT"]


class TestRule02LineFeedsBetweenFrames:
    @every_version
    @pytest.mark.parametrize("ends", ["\n", "\r\n", "\n\n\r\n\n", "\r\n" * 1000], ids=["LF", "CRLF", "both", "many"])
    async def test_any_number_may_stand_before_and_after_a_frame(self, site: Site, version: str, ends: str) -> None:
        async with site.open(f"/stomp?token={site.token('alice')}") as wire:
            await wire.send(ends, ends + frame("CONNECT", f"accept-version:{version}") + ends)
            assert (await wire.next()).command == "CONNECTED"
            await wire.send(ends.encode(), ends + frame("UNSUBSCRIBE", "id:x", "receipt:r") + ends)
            assert (await wire.next()).headers == {"receipt-id": "r"}

    async def test_crlf_may_be_cut_in_two(self, site: Site) -> None:
        async with site.connected("alice") as wire:
            await wire.send("\r", "\n", "\r", "\n" + frame("UNSUBSCRIBE", "id:x", "receipt:r"))
            assert (await wire.next()).headers == {"receipt-id": "r"}

    @pytest.mark.parametrize("other", [" ", "\t", '{"type":"ping"}', "\0"])
    async def test_anything_else_is_an_error_at_once(self, site: Site, other: str) -> None:
        async with site.connected("alice") as wire:
            await wire.send(other)
            assert (await wire.refused())[1] == 1002


class TestRule07ReadingCommandsAndHeaders:
    @every_version
    async def test_stomp_is_connect(self, site: Site, version: str) -> None:
        async with site.open() as wire:
            await wire.send(frame("STOMP", f"accept-version:{version}", f"Authorization:Bearer {site.token('alice')}"))
            assert (await wire.next()).headers["version"] == version

    @pytest.mark.parametrize("command", ["connect", "Connect", "stomp", "CONNECT "])
    async def test_the_first_command_is_case_sensitive(self, site: Site, command: str) -> None:
        async with site.open(f"/stomp?token={site.token('alice')}") as wire:
            await wire.send(frame(command, "accept-version:1.2"))
            assert (await wire.refused())[1] == 1002

    @pytest.mark.parametrize("command", ["subscribe", "Subscribe", "SUBSCRIBE ", "SUBSCRIBe", "MESSAGE", "RECEIPT"])
    async def test_later_commands_are_case_sensitive(self, site: Site, command: str) -> None:
        async with site.connected("alice") as wire:
            await wire.send(frame(command, "id:1", f"destination:{NOTIFICATIONS}", "receipt:r"))
            assert (await wire.refused())[1] == 1002

    @every_version
    async def test_nothing_is_unescaped_in_connect_nor_escaped_in_connected(self, site: Site, version: str) -> None:
        async with site.open() as wire:
            lines = (r"login:a\qb\:\n", r"passcode:\t", r"host:\c")
            connected = await wire.connect(site.token(r"a\cb\q"), version, *lines)
        assert (connected.command, connected.headers["user-name"]) == ("CONNECTED", r"a\cb\q")

    async def test_a_backslash_is_one_on_1_0(self, site: Site, user: Names) -> None:
        async with site.connected(user("alice"), "1.0") as wire:
            for id in (r"a\cb", "a:b", r"a\q", r"\\", "\\"):
                await wire.subscribe(id)
                assert await wire.barrier(rf"{id}\t") == []

    @with_escapes
    @pytest.mark.parametrize(("escaped", "other"), [(r"a\cb", "a:b"), (r"a\\cb", r"a\\cb"), (r"\n\c\\", r"\n:\\")])
    async def test_escapes_are_undone_and_colons_need_none(
        self, site: Site, user: Names, version: str, escaped: str, other: str
    ) -> None:
        async with site.connected(user("alice"), version) as wire:
            await wire.subscribe(escaped)
            await wire.send(frame("SUBSCRIBE", f"id:{other}", f"destination:{NOTIFICATIONS}"))
            assert (await wire.refused())[0].headers["message"] == "The subscription id is in use"

    @with_escapes
    async def test_escapes_are_undone_in_one_pass(self, site: Site, user: Names, version: str) -> None:
        async with site.connected(user("alice"), version) as wire:
            for id in (r"a\nb", r"a\\nb", r"a\\\nb", r"a\\\\nb", r"a\\cb", r"a\cb"):
                await wire.subscribe(id)  # refused if it were one of those before

    @with_escapes
    async def test_names_are_unescaped_as_values_are(self, site: Site, version: str) -> None:
        async with site.connected("alice", version) as wire:
            await wire.send(frame("UNSUBSCRIBE", "id:x", r"rec\cei\\pt:1", "receipt:r"))
            assert (await wire.next()).headers == {"receipt-id": "r"}

    @with_escapes
    @pytest.mark.parametrize("escape", [r"\t", r"\0", r"\N", r"\:", "\\", r"\ ", r"\x41", r"a\\\q"])
    @pytest.mark.parametrize("line", ["id:{}", "{}:1", "of-no-meaning:{}"])
    async def test_any_other_escape_is_an_error(self, site: Site, version: str, escape: str, line: str) -> None:
        async with site.connected("alice", version) as wire:
            await wire.send(frame("SUBSCRIBE", line.format(escape), f"destination:{NOTIFICATIONS}", "receipt:r"))
            error, code = await wire.refused()
        assert ("escape" in error.headers["message"], code) == (True, 1002)
        assert error.headers["receipt-id"] == "r"

    async def test_a_carriage_return_has_an_escape_on_1_2_alone(self, site: Site, user: Names) -> None:
        async with site.connected(user("alice"), "1.2") as wire:
            await wire.subscribe(r"a\rb")
        async with site.connected(user("alice"), "1.1") as wire:
            await wire.send(frame("SUBSCRIBE", r"id:a\rb", f"destination:{NOTIFICATIONS}"))
            assert (await wire.refused())[1] == 1002

    @every_version
    async def test_a_header_is_split_at_its_first_colon(self, site: Site, version: str) -> None:
        async with site.connected("alice", version) as wire:
            await wire.send(frame("UNSUBSCRIBE", "id:x", "receipt:a:b:"))
            answer = await wire.next()
        assert answer.headers["receipt-id"] == ("a:b:" if version == "1.0" else r"a\cb\c")

    @every_version
    @pytest.mark.parametrize("line", ["no colon", ":no name", "receipt"])
    async def test_a_line_without_a_name_or_a_colon_is_an_error(self, site: Site, version: str, line: str) -> None:
        async with site.connected("alice", version) as wire:
            await wire.send(frame("UNSUBSCRIBE", "id:x", line, "receipt:r"))
            error, code = await wire.refused()
        assert (error.headers["receipt-id"], code) == ("r", 1002)

    @every_version
    async def test_of_a_repeated_header_the_first_counts(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice, version) as wire:
            lines = ["id:1", "id:2", f"destination:{NOTIFICATIONS}", f"destination:{UNREAD}", "receipt:1", "receipt:2"]
            await wire.send(frame("SUBSCRIBE", *lines))
            message = await wire.message(id)
            assert (message.headers["subscription"], message.headers["destination"]) == ("1", NOTIFICATIONS)
            assert (await wire.next()).headers == {"receipt-id": "1"}
            await wire.subscribe("2")  # which the first SUBSCRIBE has not taken
            await wire.send(frame("SUBSCRIBE", "id:3", "destination:/queue/x", f"destination:{NOTIFICATIONS}"))
            assert (await wire.refused())[0].headers["message"] == "there is no destination /queue/x"

    @every_version
    async def test_nothing_is_trimmed(self, site: Site, user: Names, version: str) -> None:
        async with site.connected(user("alice"), version) as wire:
            for id in ("1", " 1", "1 ", "\t1"):
                await wire.subscribe(id)
            await wire.send(frame("UNSUBSCRIBE", "id:x", "receipt: r ", "receipt:r"))
            assert (await wire.next()).lines == ("receipt-id: r ",)

    @every_version
    @pytest.mark.parametrize(
        "line", [f"destination: {NOTIFICATIONS}", f"destination:{NOTIFICATIONS} ", f"destination :{NOTIFICATIONS}"]
    )
    async def test_a_destination_with_a_space_is_another_one(self, site: Site, version: str, line: str) -> None:
        async with site.connected("alice", version) as wire:
            await wire.send(frame("SUBSCRIBE", "id:1", line))
            assert (await wire.refused())[1] == 1002

    @every_version
    async def test_lines_may_end_in_crlf(self, site: Site, version: str) -> None:
        async with site.open(f"/stomp?token={site.token('alice')}") as wire:
            await wire.send(f"CONNECT\r\naccept-version:{version}\r\nlogin:x\r\n\r\n\0")
            assert (await wire.next()).headers["version"] == version
            await wire.send("UNSUBSCRIBE\r\nid:x\r\nreceipt:r\r\n\r\n\0")
            assert (await wire.next()).lines == ("receipt-id:r",)

    @every_version
    async def test_a_carriage_return_elsewhere_in_a_head_is_an_error(self, site: Site, version: str) -> None:
        async with site.connected("alice", version) as wire:
            await wire.send(frame("UNSUBSCRIBE", "id:a\rb"))
            assert (await wire.refused())[1] == 1002


async def everything_it_says(site: Site, database: Database, user: str, version: str) -> list[Frame]:
    """A conversation with each kind of frame: the unread and the live, created, updated and deleted, the number."""
    first = await insert(database, user, "a: b\\c d")
    async with site.open() as wire:
        frames = [await wire.connect(site.token(user), version)]
        frames += await wire.subscribe("s1", NOTIFICATIONS, "ack:client-individual")
        frames += await wire.subscribe("s2", UNREAD)
        second = await insert(database, user)
        frames += await wire.until("MESSAGE", notification_id=str(second), event="created")
        await database.execute("UPDATE notification SET title = 'é' WHERE id = %s", [first])
        frames += await wire.until("MESSAGE", notification_id=str(first), event="updated")
        await database.execute("DELETE FROM notification WHERE id = %s", [first])
        frames += await wire.until("MESSAGE", notification_id=str(first), event="deleted")
        await wire.send(frame("UNSUBSCRIBE", "id:s1", "receipt:r"))
        frames += await wire.until("RECEIPT", receipt_id="r")
        await wire.send(frame("SEND", "destination:/app/a:b\\\\c  d", "receipt:e"))
        *others, error = await wire.until("ERROR")
        return [*frames, *others, error]


class TestRule08WritingHeaders:
    @every_version
    async def test_headers_are_plain_enough_for_the_weakest_parser(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        frames = await everything_it_says(site, database, user("alice"), version)
        assert {each.command for each in frames} == {"CONNECTED", "MESSAGE", "RECEIPT", "ERROR"}
        for each in frames:
            assert len(set(each.names)) == len(each.names), each
            for name, value in each.headers.items():
                assert value, each
                assert value == value.strip(), each
                assert not re.search(r"[:\\]", value), each
                assert " " not in value or (each.command, name) == ("ERROR", "message"), each
                assert "  " not in value, each

    @every_version
    async def test_ids_are_letters_digits_hyphens_and_underscores(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        frames = await everything_it_says(site, database, user("alice"), version)
        ids = {each.headers[name] for each in frames for name in ("session", "message-id", "ack") if name in each.names}
        assert len(ids) > 5
        assert all(re.fullmatch(r"[A-Za-z0-9_-]+", id) for id in ids), ids

    @every_version
    async def test_what_the_client_wrote_goes_back_as_it_was(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        written = "a b:\\" if version == "1.0" else r"a b\c\\"
        id = await insert(database, alice)
        async with site.connected(alice, version) as wire:
            await wire.send(frame("SUBSCRIBE", f"id:{written}", f"destination:{NOTIFICATIONS}", f"receipt:{written}"))
            assert (await wire.message(id)).headers["subscription"] == written
            assert (await wire.next()).lines == (f"receipt-id:{written}",)

    @every_version
    async def test_the_name_of_the_user_is_that_of_the_token(self, site: Site, version: str) -> None:
        async with site.open() as wire:
            connected = await wire.connect(site.token("José de la Cruz\\2"), version)
        assert connected.headers["user-name"] == "José de la Cruz\\2"


class TestRule09Message:
    @every_version
    async def test_it_says_what_it_holds_and_whose_it_is(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice, "Grüße €😀")
        async with site.connected(alice, version) as wire:
            replayed, *_ = await wire.subscribe("my-own")
            live = await wire.message(await insert(database, alice, "naïve"))
            number, *_ = await wire.subscribe("other", UNREAD)
        for each in (replayed, live, number):
            assert each.command == "MESSAGE"
            assert each.headers["content-type"] == "application/json"
            assert int(each.headers["content-length"]) == len(each.body.encode())
        assert replayed.headers["notification-id"] == str(id)
        assert len(replayed.body) < int(replayed.headers["content-length"])
        assert [each.headers["subscription"] for each in (replayed, live, number)] == ["my-own", "my-own", "other"]
        assert [each.headers["destination"] for each in (replayed, live, number)] == [NOTIFICATIONS] * 2 + [UNREAD]

    @every_version
    async def test_the_destination_is_letter_for_letter_what_the_client_wrote(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        topic = user("Bürger und\\Meister")
        written = "/topic/" + (topic if version == "1.0" else topic.replace("\\", "\\\\"))
        async with site.connected("alice", version, topics=[topic]) as wire:
            await wire.subscribe("1", written)
            message = await wire.message(await insert(database, f"topic:{topic}"))
        assert message.headers["destination"] == written

    async def test_on_1_0_a_client_without_an_id_is_told_none(
        self, site: Site, database: Database, user: Names
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice, "1.0") as wire:
            await wire.send(frame("SUBSCRIBE", f"destination:{NOTIFICATIONS}"))
            message = await wire.message(id)
        assert "subscription" not in message.names
        assert message.headers["destination"] == NOTIFICATIONS

    async def test_each_of_two_subscriptions_is_told_its_own_id(
        self, site: Site, database: Database, user: Names
    ) -> None:
        alice = user("alice")
        async with site.connected(alice) as wire:
            await wire.subscribe("1")
            await wire.subscribe("2")
            id = await insert(database, alice)
            messages = [await wire.message(id), await wire.message(id)]
        assert {message.headers["subscription"] for message in messages} == {"1", "2"}
        assert len({message.headers["message-id"] for message in messages}) == 2
