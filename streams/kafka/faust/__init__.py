"""What faust-streaming and aiokafka need to be told; nothing else imports them."""
