"""Launchers of training jobs, a file each: what they are told of a plan, and what their files say a job does.

A target is a table of entries (entries.py) that is read both ways.  Whatever a plan says and a target cannot is NotExpressible.
"""

from parsim.targets.exporting import export_plan as export_plan
from parsim.targets.exporting import find as find
from parsim.targets.importing import read_job as read_job
from parsim.targets.target import TARGETS as TARGETS
from parsim.targets.target import ForeignJob as ForeignJob
from parsim.targets.target import Launch as Launch
from parsim.targets.target import Left as Left
from parsim.targets.target import NotExpressible as NotExpressible
from parsim.targets.target import Setup as Setup
from parsim.targets.target import Target as Target
