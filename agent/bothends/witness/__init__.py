"""Witnesses: what on this host can say "this packet was here".

Each says how far it can be trusted on this host (`evidence.Witness`) and is
left out, not guessed, where it is missing.
"""
