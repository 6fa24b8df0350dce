"""The figures that Sluice is to hold, each with the load that shows it: ``python -m loadtest.goals``."""
