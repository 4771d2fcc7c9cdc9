"""What a method says and what it sees. Imports nothing of the package but itself; without torch, but for `seen`."""
