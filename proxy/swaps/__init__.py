"""Moving a virtual model or an alias from one target to another in a running server."""
