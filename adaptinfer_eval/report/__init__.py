"""What a sweep's records say, for people to read."""
