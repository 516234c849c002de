"""gRPC for every role: channels, credentials, health, ports. Imports only sbrl.errors."""
