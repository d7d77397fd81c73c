"""The Debezium connector for the table `notification`, and its registration with Kafka Connect."""
