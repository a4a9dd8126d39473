"""A seeded simulator: the real deciding cores in virtual time, under faults of every kind."""
