"""What all unit tests share."""

from hypothesis import HealthCheck, settings

# The cores are shared with others: how long an example takes says nothing.
settings.register_profile("unit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")
