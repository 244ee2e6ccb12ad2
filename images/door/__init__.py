"""The door's PID 1: Envoy, how it begins, what it tells and how it leaves.

Standard library only: the image holds Envoy and nothing else. The names and ports that the pods
of a door and their neighbours agree on are in `settings`.
"""
