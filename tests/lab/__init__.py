"""The lab: computers, networks, faults and services made of namespaces, rules and processes.

``hosts`` makes computers, ``network`` joins them, ``services`` and ``faults``
put things on them, ``agents`` runs bothends there, ``scenarios`` is the table
of what must come out and ``grading`` says whether it did. Run it with pytest or
``scripts/lab``.
"""
