"""What feeds a step, from storage over the hosts to the devices.

A scenario says what is read and from where, an estimate how long a step takes; that stays as it is, and here stands what it waits for.
"""
