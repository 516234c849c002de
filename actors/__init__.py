"""The actor's program. May import sbrl, and no other role."""
