"""Kafka Connect: the connector that follows the table `notification`, and how it is registered."""
