"""Passes changes from the stream to the gateways of connected recipients; other rows stay unread in the table."""
