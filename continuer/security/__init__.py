"""Who may talk to whom: keys, roles, enrolment, signatures. See ``docs/security.md``."""
