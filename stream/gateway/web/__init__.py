"""The gateway over HTTP: routes, errors, the server. Needs the extra `gateway`."""
