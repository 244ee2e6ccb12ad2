"""The doors' configuration, and the server that gives it to them: delta ADS over mutual TLS.

The only importer of grpc and of Envoy's protos. Nothing that a user writes becomes configuration
text: every resource is a typed message, made by a pure function from values of the API.
"""
