"""The learner's program. May import sbrl, and no other role."""
