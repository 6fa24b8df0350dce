"""Measuring Sluice and its peers on one machine; see README.md here."""
