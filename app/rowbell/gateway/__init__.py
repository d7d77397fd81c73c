"""Sockets, sessions, and what each subscription is sent."""
