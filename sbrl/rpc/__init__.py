"""gRPC as every role uses it: channels, credentials, health, ports. Imports sbrl.errors alone."""
