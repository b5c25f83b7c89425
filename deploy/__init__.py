"""Putting the pedal on a machine: service units, device rules, engine store."""
