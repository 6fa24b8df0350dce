"""Instruments of the tests: a stub engine, a raw client, a checker. They are tested themselves."""
