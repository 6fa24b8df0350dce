"""The operator: an ``InferenceService`` becomes Deployments, Services, configuration, scaling and routes of Sluice."""
