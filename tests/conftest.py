"""Settings that all tests share."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)  # a busy machine is no bug; pytest-timeout bounds every test
settings.load_profile("patient")
