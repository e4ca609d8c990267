"""What is to be moved: recorded traces, collective algorithms, generators; all end as a ``schedule.Schedule``.

Nothing is imported here, so that ``import fabricsim`` stays light: import the module that is wanted.
"""
