"""The gateway: HTTP in front of the topics. All that knows a web framework is in `web`."""
