"""From the stream of changes to the gateways of those who are connected; the rest stays unread in the table."""
