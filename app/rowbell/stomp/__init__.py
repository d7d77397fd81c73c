"""STOMP 1.0, 1.1 and 1.2 without I/O: text or octets in, events out, whole frames out.

    headers.py       the command and headers of a frame, and their escapes
    frames.py        frames out of a stream of octets, and back
    negotiation.py   what two peers agree on when they connect
    events.py        what happened, as values
    server.py        one connection, seen from the server (the gateway's)
    subscription.py  one subscription of a connection, and the messages that wait for an acknowledgement
    transaction.py   the transactions of a connection, and the frames that are held until COMMIT
    client.py        one connection, seen from the client (`rowbell listen`, tests, benchmarks)
    limits.py        how large a peer's frames may be
    errors.py        the two kinds of protocol error

The package knows nothing of sockets, tokens and notifications, and imports nothing else of Rowbell. Where the
specification and the clients in use disagree, the clients win; each such place says so.

Source: https://stomp.github.io/stomp-specification-1.2.html, and -1.1 and -1.0
"""
