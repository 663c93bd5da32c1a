"""What only faust-streaming and aiokafka need; nothing else imports them."""
