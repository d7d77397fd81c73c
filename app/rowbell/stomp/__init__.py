"""STOMP 1.0, 1.1 and 1.2 without I/O: text or octets in, events out, whole frames out.

    headers.py       what stands before the blank line, and its escapes
    frames.py        frames out of a stream of octets, and back
    negotiation.py   what two peers agree on when they connect
    events.py        what happened, as values
    server.py        one connection, seen from the server (the gateway's)
    subscription.py  one subscription of it, and the messages that wait for their acknowledgement
    transaction.py   its transactions, and the frames that are held until their COMMIT
    client.py        one connection, seen from the client (`rowbell listen`, tests, benchmarks)
    errors.py        whose fault it was

It knows sockets, tokens and notifications by name only, and imports nothing else of Rowbell. Where the
specification and the clients in use disagree, the clients win; each such place says so.

Source: https://stomp.github.io/stomp-specification-1.2.html, and -1.1 and -1.0
"""
