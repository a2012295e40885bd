"""The sans-I/O half of bothends: no socket, clock, entropy, file or event loop.

Time and randomness are passed in; bytes and messages come out. Evidence goes
one way: raw evidence -> observations -> verdict.
"""
