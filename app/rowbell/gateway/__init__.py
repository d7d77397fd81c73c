"""The gateway: sockets, sessions, and what each subscription is sent."""
