"""How sure a prediction is: 80 % intervals of step time and peak memory, from how far predictions of comparable measured runs were off.

runs.py holds those runs, each with log(measured / predicted); setting.py says what makes two runs comparable; spread.py what is to be
expected of a new one.  The rule, with few constants, all of which were chosen on sources left out:

* Runs of the same figure, of the same class of training, of those the same software stack, and of those the same generation of
  accelerator are four pools, each within the one before.  The error expected is drawn from the narrowest pool with n / (n + 9), else
  from the pool around it: where few runs are alike, or the stack is unknown, what all others teach counts (a Dirichlet process; Teh et
  al. 2006, JASA 101(476)).
* n runs of one source are worth n / (1 + n / 9) that are independent (a cluster's design effect; Kish 1965, Survey Sampling).
* A run counts as far off as figures were that did not see it, as they did not see a new one: of the same stack it is predicted by what
  was fitted to other models, or other sources; of another stack without all that was fitted to its source, since an unknown stack has none.
* The interval reaches from the 10th to the 90th percentile of that mixture, and always holds the prediction.
* It is wider by a tenth on an accelerator on which the stack was never compared; on one on which nothing was, by what the median errors
  of accelerators are apart, since what is wrong with its figures is wrong with all of its runs; by a fifth beyond the devices of every
  comparable run, and by two fifths for each of micro_batch and recomputation that had to be assumed.
"""

from __future__ import annotations

from parsim.confidence.runs import ComparedRun, known_runs
from parsim.confidence.setting import Setting, setting_of
from parsim.confidence.spread import ErrorSpread, spread_of, verdict

__all__ = ["ComparedRun", "ErrorSpread", "Setting", "known_runs", "setting_of", "spread_of", "verdict"]
